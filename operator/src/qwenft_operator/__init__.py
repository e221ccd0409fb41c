"""The operator: pure decisions, thin edges."""
