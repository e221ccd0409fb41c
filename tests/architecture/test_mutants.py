"""The catalogue of mutations fits the code: `make test-mutants` finds what it wants to break."""

from __future__ import annotations

from collections import Counter

import pytest

from mutants.catalogue import CATALOGUE
from mutants.mutation import ROOT, Mutation


@pytest.mark.parametrize("file", sorted({each.file for each in CATALOGUE}))
def test_each_mutation_has_one_place_and_gives_python(file: str) -> None:
    for each in CATALOGUE:
        if each.file == file:
            compile(each.applied(), file, "exec")


def test_tests_that_have_to_fail_are_there() -> None:
    tests = {test for each in CATALOGUE for test in each.tests}
    assert [test for test in sorted(tests) if not (ROOT / "tests" / test).exists()] == []


def test_no_mutation_is_there_twice() -> None:
    told = Counter((each.file, each.what) for each in CATALOGUE)
    assert [key for key, count in told.items() if count > 1] == []


def test_text_that_is_gone_is_named() -> None:
    gone = Mutation(file="qwenft_plan/errors.py", what="x", old="no such text", new="", tests=())
    with pytest.raises(ValueError, match="'no such text' occurs 0 times"):
        gone.applied()
