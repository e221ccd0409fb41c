"""The trainer: one code path for every plan."""
