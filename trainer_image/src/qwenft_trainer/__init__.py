"""The trainer: one code path for every plan."""

__all__ = ["enable_advanced_parallelization"]


def enable_advanced_parallelization() -> None:
    """Make the models that a script loads from here on follow the plan; see ``option``."""
    from qwenft_trainer import option  # noqa: PLC0415 - torch takes seconds; prepare --help needs none

    option.enable_advanced_parallelization()
