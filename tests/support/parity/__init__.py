"""Tiny models under many plans on gloo ranks, beside the stock Hugging Face loop."""
