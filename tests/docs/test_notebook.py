"""The notebook, cell by cell, with a real training.

No Jupyter is installed for it (it would bring some thirty packages): the cells are run as Python in
one namespace, and what stands last in a cell is asked for its picture as Jupyter does. The cluster
is a stand-in that trains on this machine.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import qwenft
from documented import ROOT
from documented.here import ThisMachine
from qwenft_cli import client
from qwenft_cli.losses import LossCurve
from qwenft_plan.progress import Progress

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
STEPS = 4


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert content["nbformat"] == 4
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def execute(source: str, scope: dict[str, Any]) -> Any:
    """Run a cell and return its last expression's value."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), scope)  # noqa: S102 - our own notebook
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), scope)  # noqa: S307


def test_the_notebook_is_committed_without_outputs_and_uses_the_public_names() -> None:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert all(not cell.get("outputs") for cell in content["cells"])
    for source in cells():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module == "qwenft":
                assert {name.name for name in node.names} <= set(qwenft.__all__)


def test_a_curve_has_a_point_a_step_and_a_validation_where_it_changes() -> None:
    def report(step: int, held: float | None) -> Progress:
        return Progress(attempt=1, step=step, total_steps=4, loss=5.0 - step, validation_loss=held)

    curve = LossCurve.of([report(1, None), report(2, 4.0), report(3, 4.0), report(4, 3.5)])
    assert curve.training == ((1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0))
    assert curve.validation == ((2, 4.0), (4, 3.5))
    drawn = curve._repr_html_()
    assert drawn.count("<polyline") == 2
    assert "<script" not in drawn
    assert "no step" in LossCurve.of([])._repr_html_()


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Lay the repository out for a reader in docs/, and fill the samples' volume."""
    samples = tmp_path / "manifests" / "samples"
    samples.mkdir(parents=True)
    sample = (ROOT / "manifests/samples/qwen-stdlib.yaml").read_text("utf-8")
    assert "maxSteps: 60" in sample
    (samples / "qwen-stdlib.yaml").write_text(sample.replace("maxSteps: 60", f"maxSteps: {STEPS}"))
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    words = [sys.executable, "-m", "qwenft_cli", "prepare", "--stdlib-sample", str(tmp_path)]
    subprocess.run(words, check=True, capture_output=True)
    machine = ThisMachine(tmp_path)
    monkeypatch.setattr(client, "connect_cluster", machine.connect)
    monkeypatch.setitem(client.Client.__init__.__kwdefaults__, "connect", machine.connect)
    yield tmp_path
    machine.close()


@pytest.mark.full
@pytest.mark.torch
def test_the_notebook_plans_trains_draws_and_loads(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scope: dict[str, Any] = {}
    shown = [execute(source.replace('"/data/', f'"{volume}/'), scope) for source in cells()]
    (curve,) = [value for value in shown if value is not None]
    assert len(curve.training) == STEPS
    assert "<polyline" in curve._repr_html_()
    told = capsys.readouterr().out
    assert f"Succeeded step {STEPS} of {STEPS}" in told
    assert "tokensPerSecond: predicted" in told
    assert "parameters write: 'def main" in told
