"""``make demo``: from a fresh machine to a fine-tuned model, told stage by stage.

The end-to-end tests stand on the same stages, so what a person sees is what is tested.
"""
