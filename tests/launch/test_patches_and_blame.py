"""Replacing attributes for a while, and errors that name the user's line."""

from types import ModuleType

import pytest

from qwenft_trainer.blame import parts_explained, refuse, user_line
from qwenft_trainer.failure import PlanInvalid
from qwenft_trainer.patches import replaced


class Owner(ModuleType):
    kept: int


def test_replaced_attributes_are_there_and_come_back() -> None:
    owner = Owner("owner")
    owner.kept = 1
    with replaced({(owner, "kept"): 2, (owner, "new"): 3}):
        assert (owner.kept, owner.new) == (2, 3)
    assert owner.kept == 1
    assert not hasattr(owner, "new")


def test_replaced_attributes_come_back_after_an_error() -> None:
    owner = Owner("owner")
    owner.kept = 1
    changed = replaced({(owner, "kept"): 2})
    changed.__enter__()
    error = KeyError("x")
    assert not changed.__exit__(KeyError, error, error.__traceback__)
    assert owner.kept == 1


def test_a_class_gets_its_own_attribute_back_and_an_inherited_one_unshadowed() -> None:
    class Parent:
        inherited = "parent's"

    class Child(Parent):
        own = "child's"

    with replaced({(Child, "own"): "new", (Child, "inherited"): "new"}):
        assert (Child.own, Child.inherited, Parent.inherited) == ("new", "new", "parent's")
    assert (Child.own, Child.inherited) == ("child's", "parent's")
    assert "inherited" not in vars(Child)


def test_a_refusal_names_the_users_line_and_the_way_out() -> None:
    with pytest.raises(PlanInvalid, match=r"test_patches_and_blame\.py:\d+: this; do that"):
        refuse("this", "do that")


def test_the_users_line_is_the_innermost_one_outside_of_libraries() -> None:
    lines = sorted([2, 1], key=lambda _: user_line())
    assert lines == [2, 1]
    assert "test_patches_and_blame.py" in user_line()


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("'NoneType' object has no attribute 'abs'"),
        RuntimeError("aten.add.Tensor got mixed torch.Tensor and DTensor"),
    ],
)
def test_an_error_about_parts_names_the_users_line_and_keeps_torchs_words(error: Exception) -> None:
    with pytest.raises(PlanInvalid, match=r"test_patches_and_blame\.py:\d+: .*a part") as caught:
        fail_with(error)
    assert str(error) in str(caught.value)
    assert "take weights from model.state_dict()" in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [ValueError("mine"), PlanInvalid("told already")])
def test_another_error_is_left_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        fail_with(error)
    assert caught.value is error


def fail_with(error: Exception) -> None:
    with parts_explained():
        raise error
