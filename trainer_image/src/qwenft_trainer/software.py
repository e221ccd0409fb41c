"""What a run was computed with, in one line: versions that a number can depend on."""

import platform

import torch
import transformers

__all__ = ["environment"]


def environment() -> str:
    """Return interpreter, libraries and device: ``Python 3.13.5 · torch 2.15.0 · …``."""
    parts = [
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"transformers {transformers.__version__}",
    ]
    if torch.cuda.is_available():
        runtime = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
        parts += [runtime, torch.cuda.get_device_name()]
    else:
        parts.append(f"CPU {platform.machine()}")
    return " · ".join(parts)
