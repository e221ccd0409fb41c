"""`make bench`: tokens per second of this trainer beside Hugging Face's, in one run."""
