"""What stands for torch's compiler says what the compiler would say, and gives way to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launching.plans import make_plan, write_plan

pytestmark = pytest.mark.torch

LOAD = """
import json, os, sys
from pathlib import Path
from qwenft_plan.plan import Plan
from qwenft_trainer import loading
loading.loop(Plan.load(Path(sys.argv[1])))
"""
HEAVY = ("sympy.core", "torch._dynamo.symbolic_convert", "torch._inductor", "triton.language")
STOOD_FOR = """
import sympy, torch._dynamo
from qwenft_trainer import uncompiled as it
names = (it.COMPILER, it.ALGEBRA)
print(json.dumps([isinstance(sys.modules[name], it.StandIn) for name in names]))
"""
LOADED = f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"


def told(source: str, *arguments: str, **environ: str) -> Any:
    """Return what a fresh interpreter prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source, *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def loaded(folder: Path, source: str = LOADED, *, environ: Any = None, **choices: Any) -> Any:
    path = write_plan(folder, make_plan(**choices))
    return told(LOAD + source, str(path), **(environ or {}))


def test_the_loop_of_a_run_that_compiles_nothing_loads_no_compiler(tmp_path: Path) -> None:
    assert loaded(tmp_path) == []


@pytest.mark.parametrize(
    ("choices", "environ"),
    [({"compile": True}, {}), ({}, {"QWENFT_COMPILE": "inductor"})],
    ids=["by the plan", "by the environment"],
)
def test_a_run_that_compiles_has_the_real_compiler(
    tmp_path: Path, choices: dict[str, Any], environ: dict[str, str]
) -> None:
    assert loaded(tmp_path, STOOD_FOR, environ=environ, **choices) == [False, False]


@pytest.mark.parametrize(
    ("method", "hidden"),
    [("full", ["accelerate", "torchao"]), ("lora", ["torchao"])],
)
def test_a_run_finds_the_packages_that_its_method_needs(
    tmp_path: Path, method: str, hidden: list[str]
) -> None:
    names = ("accelerate", "torchao")
    source = f"print(json.dumps([n for n in {names!r} if sys.modules.get(n, n) is None]))"
    assert loaded(tmp_path, source, method=method) == hidden


ANSWERS = """
import json
import torch
from qwenft_trainer import uncompiled as it
it.stand_in()
from torch.fx.experimental import symbolic_shapes as held
tensor, rows = torch.ones(2, 3), [1, (2, 3)]
values = {
    "sym_and": [(True, True), (True, False), (False,)],
    "sym_or": [(False, True), (False, False), (True,)],
    "sym_eq": [(2, 2), (2, 3), ((1, 2), [1, 2]), ((1, 2), (1, 3)), ((1,), (1, 2))],
    "compute_unbacked_bindings": [(None, tensor), (None, rows)],
    "guard_int": [(3,), (0,)], "optimization_hint": [(3,), (0,)],
    "is_concrete_int": [(3,)], "is_concrete_bool": [(True,), (False,)],
    "has_guarding_hint": [(3,), (True,)], "is_nested_int": [(3,), (2.5,)],
    "is_symbolic": [(3,), (2.5,), (True,)],
}
sets = ("has_free_symbols", "has_free_unbacked_symbols", "free_symbols", "free_unbacked_symbols",
        "_iterate_exprs", "_iterate_nodes")
values |= dict.fromkeys(sets, [(tensor,), (3,), (rows,), (None,), (tensor.shape,)])
known = [name for names in it._PLAIN.values() for name in names]
values |= {name: [(True,), (False,)] for name in known if name not in values}
def ask(module):
    plain = lambda one: list(one) if hasattr(one, "__iter__") else one
    return {n: [plain(getattr(module, n)(*args)) for args in values[n]] for n in known}
before = ask(held)
assert isinstance(held, it.StandIn)
after = ask(it.real(it.SHAPES))
print(json.dumps([before, after]))
"""


def test_each_answer_about_plain_values_is_the_real_modules() -> None:
    before, after = told(ANSWERS)
    assert before == after
    assert len(before) >= 20


def test_a_question_about_a_symbol_goes_to_the_real_module() -> None:
    assert told("""
import json, sys, torch
from qwenft_trainer import uncompiled as it
it.stand_in()
from torch.fx.experimental.symbolic_shapes import guard_or_false, has_free_unbacked_symbols
plain = guard_or_false(True), "sympy.core" in sys.modules
from torch.fx.experimental.symbolic_shapes import ShapeEnv
size = ShapeEnv().create_unbacked_symint()
print(json.dumps([plain, guard_or_false(size == 7), has_free_unbacked_symbols(size)]))
""") == [[True, False], False, True]


def test_whoever_compiles_after_all_gets_the_compiler() -> None:
    assert told("""
import json, torch
from qwenft_trainer import uncompiled as it
it.stand_in()
import torch._dynamo.config as early
held = torch._dynamo
graphs = []
def backend(graph, inputs):
    graphs.append(len(graph.graph.nodes))
    return graph.forward
compiled = torch.compile(lambda x: x * 2 + 1, backend=backend)
value = compiled(torch.ones(3)).sum().item()
from torch._dynamo.utils import counters
import torch._dynamo
print(json.dumps([
    value, len(graphs), isinstance(torch._dynamo, it.StandIn),
    held.OptimizedModule is torch._dynamo.OptimizedModule,
    held.utils.counters is counters, early.recompile_limit == torch._dynamo.config.recompile_limit,
]))
""") == [9.0, 1, False, True, True, True]


def test_the_algebra_is_whole_as_soon_as_it_is_used() -> None:
    assert told("""
import json
from qwenft_trainer import uncompiled as it
it.stand_in()
import sympy
before = isinstance(3, sympy.Basic)
x = sympy.Symbol("x")
from sympy.core.traversal import iterargs
print(json.dumps([before, isinstance(x, sympy.Basic), str(sympy.expand((x + 1) ** 2)),
                  len(list(iterargs(x + 1)))]))
""") == [False, True, "x**2 + 2*x + 1", 3]


def test_whoever_looks_through_all_modules_brings_nothing_in() -> None:
    assert told("""
import inspect, json, sys
from qwenft_trainer import uncompiled as it
it.stand_in()
inspect.getmodule(inspect.currentframe())
print(json.dumps(sorted(n for n, m in sys.modules.items() if isinstance(m, it.StandIn))))
""") == ["sympy", "torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op",
         "torch.fx.experimental.symbolic_shapes"]  # fmt: skip


def test_what_marks_functions_for_the_compiler_leaves_them_as_they_are() -> None:
    assert told("""
import json, sys, torch
from qwenft_trainer import uncompiled as it
it.stand_in()
def plain(): return 1
@torch.compiler.disable
def marked(): return 2
@torch.compiler.disable(recursive=False)
def also(): return 3
print(json.dumps([torch._dynamo.disable(plain) is plain, marked(), also(),
                  "torch._inductor" in sys.modules]))
""") == [True, 2, 3, False]
