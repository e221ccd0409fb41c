"""What one GPU does: memory beside the prediction, tokens a second, MFU."""
