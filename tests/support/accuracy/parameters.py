"""Write docs/parameters.md: `PYTHONPATH=tests/support python -m accuracy.parameters`."""

from __future__ import annotations

from pathlib import Path

from qwenft_plan.guide import guide

PATH = Path(__file__).parents[3] / "docs" / "parameters.md"

if __name__ == "__main__":
    PATH.write_text(guide(), encoding="utf-8")
