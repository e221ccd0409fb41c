"""Typed fields are read with errors that carry the path, and the two kinds of refusal differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qwenft_plan import fields
from qwenft_plan.errors import Infeasible, SpecError

Read = Callable[[dict[str, Any], str, str], Any]


def whole(mapping: dict[str, Any], key: str, path: str) -> int | None:
    return fields.integer(mapping, key, path, least=1, most=10)


def share(mapping: dict[str, Any], key: str, path: str) -> float:
    return fields.number(mapping, key, path, least=0.0, default=0.5)


def flag(mapping: dict[str, Any], key: str, path: str) -> bool:
    return fields.boolean(mapping, key, path, default=True)


def word(mapping: dict[str, Any], key: str, path: str) -> str:
    return fields.choice(mapping, key, path, ("red", "blue"), "red")


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (whole, 1, 1),
        (whole, 10, 10),
        (share, 0, 0.0),
        (share, 0.25, 0.25),
        (share, 3, 3.0),
        (flag, False, False),
        (flag, True, True),
        (word, "blue", "blue"),
        (fields.text, "x y", "x y"),
        (fields.text, "", ""),
        (fields.text, "×", "×"),
        (fields.section, {"a": 1}, {"a": 1}),
        (fields.quantity, "16Gi", 16 * 2**30),
        (fields.quantity, "0.5Mi", 2**19),
        (fields.quantity, 7, 7),
    ],
)
def test_a_good_value_is_read(read: Read, value: object, expected: object) -> None:
    found = read({"key": value}, "key", "spec")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (whole, None),
        (share, 0.5),
        (flag, True),
        (word, "red"),
        (fields.text, ""),
        (fields.section, {}),
        (fields.quantity, None),
    ],
)
@pytest.mark.parametrize("mapping", [{}, {"key": None}], ids=["absent", "null"])
def test_an_absent_value_is_its_default(
    read: Read, mapping: dict[str, Any], expected: object
) -> None:
    assert read(mapping, "key", "spec") == expected


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (whole, 0, "0 is not within 1..10"),
        (whole, 11, "11 is not within 1..10"),
        (whole, 1.0, "must be an integer, not 1.0"),
        (whole, True, "must be an integer, not True"),
        (whole, "1", "must be an integer, not '1'"),
        (share, -0.1, "not a finite number of at least 0"),
        (share, float("inf"), "not a finite number"),
        (share, float("nan"), "not a finite number"),
        (share, 10**400, "not a finite number"),
        (share, "1", "must be a number, not '1'"),
        (share, False, "must be a number, not False"),
        (flag, 1, "must be true or false, not 1"),
        (flag, "true", "must be true or false"),
        (word, "green", "'green' is none of red, blue"),
        (word, 1, "must be a string, not int"),
        (fields.text, 1, "must be a string, not int"),
        (fields.text, "a\nb", "must not hold control characters"),
        (fields.text, "a\x1b[0m", "must not hold control characters"),
        (fields.section, [], "must be a mapping, not list"),
        (fields.section, "x", "must be a mapping, not str"),
        (fields.quantity, "16G i", "'16G i' is no quantity such as 16Gi"),
        (fields.quantity, "-1Gi", "is no quantity"),
        (fields.quantity, "1Pi", "is no quantity"),
        (fields.quantity, "", "is no quantity"),
        (fields.quantity, True, "is no quantity"),
    ],
)
def test_a_bad_value_is_named_with_its_path_and_what_would_be_right(
    read: Read, value: object, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read({"key": value}, "key", "spec.training")
    assert caught.value.path == "spec.training.key"
    assert words in caught.value.message


def test_a_key_that_nobody_reads_is_refused_with_the_keys_that_are() -> None:
    with pytest.raises(SpecError) as caught:
        fields.only_known({"epoch": 1}, ("epochs", "seed"), "spec.training")
    assert caught.value.path == "spec.training.epoch"
    assert caught.value.message == "is not a known field; known are epochs, seed"


@pytest.mark.parametrize("mapping", [{}, {"seed": 1}, {"seed": None, "epochs": 2}])
def test_known_keys_pass(mapping: dict[str, Any]) -> None:
    assert fields.only_known(mapping, ("epochs", "seed"), "spec") is None  # type: ignore[func-returns-value]


def test_an_error_reads_as_path_and_message() -> None:
    error = SpecError("spec.nodes.max", "2 is below 3")
    assert str(error) == "spec.nodes.max: 2 is below 3"


@pytest.mark.parametrize(
    ("path", "expected"), [("max", "spec.nodes.max"), ("", "spec.nodes"), ("a.b", "spec.nodes.a.b")]
)
def test_an_error_seen_from_further_out_has_a_longer_path(path: str, expected: str) -> None:
    outer = SpecError(path, "wrong").under("spec.nodes")
    assert (outer.path, outer.message) == (expected, "wrong")


def test_the_user_s_mistake_and_the_cluster_s_state_are_told_apart() -> None:
    wrong, impossible = SpecError("a", "b"), Infeasible(("first", "second"))
    assert isinstance(wrong, ValueError)
    assert not isinstance(impossible, ValueError)
    assert str(impossible) == "first; second"
    assert impossible.reasons == ("first", "second")
