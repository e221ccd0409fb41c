"""`PYTHONPATH=tests/support python -m accuracy.search_time`: processor seconds of a search by size.

A benchmark to read, not a timed test: required are 0.1 s for 8 devices, 1 s for 64, 5 s for 1,024.
"""

from __future__ import annotations

from time import process_time

from qwenft_plan.inventory import Inventory
from qwenft_plan.model import ModelShape
from qwenft_plan.planner import plan
from qwenft_plan.spec import FinetuneSpec

CASES = (("1x8xH100-80G", 0.1), ("8x8xH100-80G", 1.0), ("128x8xH100-80G", 5.0))
NAME = "Qwen/Qwen1.5-7B"


def main() -> None:
    """Print one line a size, the best of three searches."""
    spec = FinetuneSpec.from_mapping(
        {
            "model": {"name": NAME},
            "dataset": {"path": "/data/dataset.pt"},
            "output": {"path": "/data/out"},
            "training": {"batchSize": 1024},
        }
    )
    model = ModelShape.known(NAME)
    for on, required in CASES:
        inventory, times = Inventory.parse(on), []
        for _ in range(3):
            begin = process_time()
            plan(spec=spec, model=model, inventory=inventory)
            times.append(process_time() - begin)
        print(f"{on:<16} {min(times):7.3f} s   required < {required:g} s")


if __name__ == "__main__":
    main()
