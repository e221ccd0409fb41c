"""The bench for a GPU, tried on the CPU with a tiny model: every kind of case gives figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parity import nursery

pytestmark = pytest.mark.torch

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"packing": 4, "accumulation": 2},
    {"method": "qlora"},
    {"optimizer": "adamw8bit", "checkpointing": "selective"},
    {"who": "hf"},
)


def bench(folder: Path, cases: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
    (folder / "cases.json").write_text(json.dumps(cases))
    sources = os.pathsep.join(nursery.sources())
    done = subprocess.run(
        [sys.executable, "-m", "gpu.bench", str(folder), str(folder / "cases.json")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": sources},
        check=False,
        timeout=300,
    )
    return done.returncode, json.loads((folder / "results.json").read_text())["results"]


def test_every_kind_of_case_is_measured(tmp_path: Path) -> None:
    cases = [{"model": "tiny", "length": 64, "rows": 2} | kind for kind in KINDS]
    code, results = bench(tmp_path, cases)
    assert code == 0
    assert len(results) == len(cases)
    for result in results:
        assert result["seconds"] > 0, result
        assert result["first_loss"] == pytest.approx(6.24, abs=0.2), result
        assert len(result["all_seconds"]) == 5


def test_a_case_that_fails_is_a_result_and_the_others_go_on(tmp_path: Path) -> None:
    broken = {"model": "tiny", "length": 64, "checkpointing": "selective", "accumulation": 0}
    code, results = bench(tmp_path, [broken, {"model": "tiny", "length": 64}])
    assert code == 1
    assert "gradient_accumulation_steps" in results[0]["error"]
    assert results[1]["seconds"] > 0
