"""`python -m mutants [WORD…]`: break a copy of the product one way after the other.

A word chooses the mutations whose file or description contains it. Exit code 1 if a broken copy
passes its tests. The tests of a copy run in a fork of this process, which has the libraries
imported that they need: most of the time of a short run of pytest goes into that.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
import pytest

from mutants.catalogue import CATALOGUE
from mutants.mutation import ROOT, Mutation, broken_copy

_SECONDS = 300
_TEST_SECONDS = 120
_FAILED = 1
"""pytest's exit code for failing tests; any other is a run that broke off."""
_LIBRARIES = ("hypothesis.strategies", "aiohttp.web", "cryptography.x509", "jsonschema", "kopf",
              "kubernetes.aio.client.api_client", "prometheus_client",
              "rich.console", "yaml")  # fmt: skip
_TRAINER_LIBRARIES = ("torch", "transformers")


def main() -> int:
    """Try the mutations that are named, or all."""
    words = sys.argv[1:]
    chosen = [
        each for each in CATALOGUE
        if not words or any(word in f"{each.file} {each.what}" for word in words)
    ]  # fmt: skip
    _prepare(trainer=any(each.file.startswith("qwenft_trainer") for each in chosen))
    survivors = [each for each in chosen if not _is_caught(each)]
    for each in survivors:
        print(f"survived: {each.file}: {each.what}")
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} broken copies were caught")
    return 1 if survivors or not chosen else 0


def _prepare(*, trainer: bool) -> None:
    for name in (*_LIBRARIES, *(_TRAINER_LIBRARIES if trainer else ())):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)


def _is_caught(mutation: Mutation) -> bool:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        by = _failing(broken_copy(mutation, Path(name)), mutation.tests, Path(name, "log"))
    took = f"{time.monotonic() - began:4.0f} s"
    verdict = "caught  " if by else "SURVIVED"
    print(f"{verdict} {took}  {mutation.file}: {mutation.what}  [{by}]", flush=True)
    return bool(by)


def _failing(sources: tuple[Path, ...], tests: tuple[str, ...], log: Path) -> str:
    """Run the tests on the copy; return the first that fails, empty if none does."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _test(sources, tests, log)
    handle = os.pidfd_open(child)
    try:
        if not select.select([handle], [], [], _SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
            return "a test that did not end"
    finally:
        os.close(handle)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = log.read_text(encoding="utf-8", errors="replace")
    if code not in (0, _FAILED):
        raise RuntimeError(f"the tests broke off with {code}:\n{said[-4000:]}")
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].split(" - ")[0] if lines else ""


def _test(sources: tuple[Path, ...], tests: tuple[str, ...], log: Path) -> None:
    """Be the process that tests a copy: nothing of the product is imported yet."""
    places = [str(place) for place in (*sources, ROOT / "tests/cluster", ROOT / "tests/support")]
    sink = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(sink, stream)
    os.chdir(ROOT)
    os.environ |= {"PYTHONPATH": ":".join(places), "PYTHONSAFEPATH": "1"}
    sys.path[:0] = places
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("first", phases=phases, database=None)
    code = pytest.main([
        "--hypothesis-profile=first",  # one example is enough, the smallest takes minutes to find
        "-x", "-q", "-p", "no:cacheprovider",
        "--tb=no", "--assert=plain",  # nobody reads how it failed
        # A golden file notices any change, also one that somebody meant: it proves nothing here.
        "-k", "not golden and not committed_ones", "-m", "not cluster and not full",
        "-o", f"timeout={_TEST_SECONDS}", "-o", f"pythonpath={' '.join(places)}",
        *(f"tests/{test}" for test in tests),
    ])  # fmt: skip
    sys.stdout.flush()
    os._exit(int(code))


if __name__ == "__main__":
    sys.exit(main())
