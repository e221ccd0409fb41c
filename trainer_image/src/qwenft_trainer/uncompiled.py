"""torch without its compiler, for ranks that compile nothing.

Half of what a rank imports are torch's compiler and the algebra of symbolic shapes (sympy), though
eager code only ever asks them "do not compile this", "is this plain condition true" and "are there
symbols in these sizes". Stand-ins answer these questions; whatever else is asked of them, for
whatever reason, brings the real module in and goes there.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

COMPILER = "torch._dynamo"
WRAPPED = f"{COMPILER}._trace_wrapped_higher_order_op"
SHAPES = "torch.fx.experimental.symbolic_shapes"
ALGEBRA = "sympy"
ALONE = (f"{COMPILER}.config",)
"""Parts of the compiler that load without it: switches, which are looked at in eager code too."""


class StandIn(ModuleType):
    """A module that answers what it knows and becomes the real one when it does not."""

    def __init__(self, name: str, answers: Mapping[str, Any]) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__dict__.update(answers)

    def forget(self) -> None:
        """Answer nothing any more: whoever still holds this gets the real module's attributes."""
        for known in _ANSWERS[self.__name__]:
            self.__dict__.pop(known, None)

    def __getattr__(self, name: str) -> Any:
        # Whoever looks through all modules, as `inspect` does, asks each for its file.
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in ALONE:
            return importlib.import_module(f"{self.__name__}.{name}")
        if self.__name__ == SHAPES and name.strip("_").islower():
            return _later(SHAPES, name)  # a function, which many name and few call
        return getattr(real(self.__name__), name)


def stand_in() -> None:
    """Put the stand-ins into place, unless the real modules are there already."""
    for name, answers in _ANSWERS.items():
        if name not in sys.modules:
            parent, _, child = name.rpartition(".")
            module = StandIn(name, answers)
            sys.modules[name] = module
            if parent:
                setattr(importlib.import_module(parent), child, module)
    if not any(isinstance(finder, _Parts) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Parts())


def real(name: str) -> ModuleType:
    """Return the module itself, importing it in the stand-in's place."""
    before = sys.modules.get(name)
    if isinstance(before, StandIn):
        before.forget()
        for inside in (name, *(part for part in ALONE if part.startswith(f"{name}."))):
            sys.modules.pop(inside, None)
    return importlib.import_module(name)


def _as_it_is(fn: Any = None, *_: Any, **__: Any) -> Any:
    """Return the function as it is: nobody would compile it."""
    return fn if fn is not None else lambda function: function


def _later(module: str, name: str) -> Callable[..., Any]:
    """Answer only when called, with the real function's answer."""

    def answer(*args: Any, **options: Any) -> Any:
        return getattr(real(module), name)(*args, **options)

    return answer


def _plainly(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Answer by ``plain`` where no argument holds a symbol, else ask the real function."""

    def answer(*args: Any, **options: Any) -> Any:
        if _is_plain(args) and not options:
            return plain(*args)
        return getattr(real(SHAPES), name)(*args, **options)

    return answer


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, torch.Tensor):
        return not value._has_symbolic_sizes_strides  # noqa: SLF001
    return value is None or type(value) in (int, float, bool)


def _listed(value: Any) -> Any:
    return list(map(_listed, value)) if isinstance(value, (tuple, list)) else value


class _NoSuchThing:
    """Stands where code asks whether something was compiled, or is an expression."""


class _NoSuchError(RuntimeError):
    """Stands where code catches an error that only symbolic conditions raise."""


_PLAIN: Mapping[Callable[..., Any], Sequence[str]] = {
    lambda value: value: (
        "expect_true", "guard_bool", "guard_int", "guard_or_false", "guard_or_true",
        "guard_size_oblivious", "optimization_hint", "statically_known_true",
    ),
    lambda *conditions: all(conditions): ("sym_and",),
    lambda *conditions: any(conditions): ("sym_or",),
    lambda one, other: _listed(one) == _listed(other): ("sym_eq",),
    lambda _: True: ("is_concrete_bool", "is_concrete_int", "has_guarding_hint"),
    lambda _: False: (
        "has_free_symbols", "has_free_unbacked_symbols", "is_nested_int", "is_symbolic",
    ),
    lambda _: (): ("_iterate_exprs", "_iterate_nodes"),
    lambda _: set(): ("free_symbols", "free_unbacked_symbols"),
    # Without an environment of shapes there are no symbols that could be bound.
    lambda *_: None: ("compute_unbacked_bindings",),
}  # fmt: skip
"""What is answered, and to which questions, where all that is asked about are plain values."""

_ANSWERS: Mapping[str, Mapping[str, Any]] = {
    COMPILER: {
        # What torch and transformers put around functions that the compiler should treat somehow.
        **dict.fromkeys(("disable", "assume_constant_result", "allow_in_graph"), _as_it_is),
        "disable_nested_graph_breaks": nullcontext,
        "graph_break": lambda: None,
        "eval_frame": SimpleNamespace(OptimizedModule=_NoSuchThing),
        "OptimizedModule": _NoSuchThing,
        # Whoever makes a process group lets the compiler forget what it knew without one.
        "trace_rules": SimpleNamespace(clear_lru_cache=lambda: None),
    },
    # What transformers puts around the making of masks where it compiles.
    WRAPPED: {"TransformGetItemToIndex": _later(WRAPPED, "TransformGetItemToIndex")},
    SHAPES: {
        **{name: _plainly(name, plain) for plain, names in _PLAIN.items() for name in names},
        "GuardOnDataDependentSymNode": _NoSuchError,
    },
    ALGEBRA: {"Basic": _NoSuchThing},
}


class _Parts(MetaPathFinder):
    """Finds a module inside one that is stood in for: the real one comes first, and brings it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        parent = name.rpartition(".")[0]
        if not isinstance(sys.modules.get(parent), StandIn):
            return None
        if name in ALONE:
            folder = Path(torch.__file__).parent.joinpath(*parent.split(".")[1:])
            return PathFinder.find_spec(name, [str(folder)])
        real(parent)
        return ModuleSpec(name, _There()) if name in sys.modules else None


class _There(Loader):
    """Hands out the module that its package has loaded meanwhile."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it ran when its package was loaded."""
