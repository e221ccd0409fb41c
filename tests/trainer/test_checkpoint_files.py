"""The files of checkpoints: which is the best, which is whole, which goes."""

import json
from pathlib import Path

import pytest

from qwenft_trainer.checkpoint_files import (
    MANIFEST,
    best,
    copy_existing,
    digest,
    digests,
    find,
    remove_old,
    unlisted,
    verify,
    write_json,
)


def make(
    folder: Path,
    *,
    step: int,
    attempt: int = 1,
    identity: str = "run",
    loss: float | None = None,
) -> Path:
    path = folder / f"step-{step:08d}-attempt-{attempt:04d}"
    path.mkdir(parents=True)
    (path / "__0_0.distcp").write_bytes(b"numbers" * step)
    files = digests(path, prefix="__")
    notes = {} if loss is None else {"validationLoss": loss}
    manifest = {"step": step, "attempt": attempt, "identity": identity, "files": files}
    manifest |= {"notes": notes}
    write_json(path / MANIFEST, manifest)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*"))


def test_the_newest_step_comes_first(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        make(tmp_path, step=step)
    assert [found.step for found in find(tmp_path)] == [10, 9, 2]


def test_a_later_attempt_comes_before_more_steps_of_an_earlier_one(tmp_path: Path) -> None:
    make(tmp_path, step=20, attempt=1)
    make(tmp_path, step=15, attempt=2)
    assert [(found.attempt, found.step) for found in find(tmp_path)] == [(2, 15), (1, 20)]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"step": "x"}', '{"step": 1, "attempt": 1}']
)
def test_a_manifest_that_cannot_be_read_makes_no_checkpoint(tmp_path: Path, content: str) -> None:
    make(tmp_path, step=1)
    (make(tmp_path, step=2) / MANIFEST).write_text(content)
    assert [found.step for found in find(tmp_path)] == [1]


def test_a_partial_directory_is_never_found(tmp_path: Path) -> None:
    path = make(tmp_path, step=3)
    path.rename(tmp_path / f".{path.name}.partial")
    assert find(tmp_path) == ()


def test_an_absent_directory_holds_nothing(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") == ()


def test_whole_files_have_nothing_wrong(tmp_path: Path) -> None:
    path = make(tmp_path, step=5)
    assert verify(path, find(tmp_path)[0].files) is None


@pytest.mark.parametrize("position", [0, 17, -1])
def test_one_flipped_bit_is_found(tmp_path: Path, position: int) -> None:
    path = make(tmp_path, step=5)
    content = bytearray((path / "__0_0.distcp").read_bytes())
    content[position] ^= 1
    (path / "__0_0.distcp").write_bytes(content)
    assert "__0_0.distcp is damaged" in (verify(path, find(tmp_path)[0].files) or "")


def test_a_file_cut_short_is_found(tmp_path: Path) -> None:
    path = make(tmp_path, step=5)
    (path / "__0_0.distcp").write_bytes(b"numb")
    assert "is damaged" in (verify(path, find(tmp_path)[0].files) or "")


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    path = make(tmp_path, step=5)
    (path / "__0_0.distcp").unlink()
    assert "cannot be read" in (verify(path, find(tmp_path)[0].files) or "")


def test_the_ranks_share_the_checking_of_files(tmp_path: Path) -> None:
    path = make(tmp_path, step=1)
    for rank in range(5):
        (path / f"__{rank}_0.distcp").write_bytes(bytes([rank]))
    manifest = json.loads((path / MANIFEST).read_text())
    write_json(path / MANIFEST, {**manifest, "files": digests(path, prefix="__")})
    (found,) = find(tmp_path)
    shares = [found.files_of(rank, 3) for rank in range(3)]
    assert sum(len(share) for share in shares) == len(found.files)
    assert {name for share in shares for name in share} == set(found.files)


def test_the_best_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        make(tmp_path, step=step)
    remove_old(tmp_path, keep=2, attempt=1, identity="run")
    assert names(tmp_path) == ["step-00000003-attempt-0001", "step-00000004-attempt-0001"]


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None)):
        make(tmp_path, step=step, loss=loss)
    remove_old(tmp_path, keep=2, attempt=1, identity="run", keep_best=True)
    assert [found.step for found in find(tmp_path)] == [5, 4, 2]


def test_the_best_that_is_among_the_newest_is_kept_once(tmp_path: Path) -> None:
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0)):
        make(tmp_path, step=step, loss=loss)
    remove_old(tmp_path, keep=1, attempt=1, identity="run", keep_best=True)
    assert [found.step for found in find(tmp_path)] == [3]


def test_the_best_goes_where_it_is_not_asked_for(tmp_path: Path) -> None:
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        make(tmp_path, step=step, loss=loss)
    remove_old(tmp_path, keep=1, attempt=1, identity="run")
    assert [found.step for found in find(tmp_path)] == [3]


def test_without_an_evaluation_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step=step)
    remove_old(tmp_path, keep=1, attempt=1, identity="run", keep_best=True)
    assert [found.step for found in find(tmp_path)] == [3]


def test_of_equal_losses_the_earliest_is_the_best(tmp_path: Path) -> None:
    for step, loss in ((1, 2.0), (2, 1.0), (3, 1.0)):
        make(tmp_path, step=step, loss=loss)
    found = best(find(tmp_path))
    assert found is not None
    assert (found.step, found.validation_loss) == (2, 1.0)
    assert best(()) is None


def test_at_least_one_is_kept(tmp_path: Path) -> None:
    make(tmp_path, step=1)
    remove_old(tmp_path, keep=0, attempt=1, identity="run")
    assert len(names(tmp_path)) == 1


def test_another_runs_checkpoints_go(tmp_path: Path) -> None:
    make(tmp_path, step=9, identity="other")
    make(tmp_path, step=1)
    remove_old(tmp_path, keep=2, attempt=1, identity="run")
    assert names(tmp_path) == ["step-00000001-attempt-0001"]


def test_a_later_attempts_checkpoints_stay(tmp_path: Path) -> None:
    make(tmp_path, step=9, attempt=3)
    for step in (1, 2, 3):
        make(tmp_path, step=step, attempt=2)
    remove_old(tmp_path, keep=1, attempt=2, identity="run")
    assert names(tmp_path) == ["step-00000003-attempt-0002", "step-00000009-attempt-0003"]


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(tmp_path / "abc") == expected


def test_only_files_that_exist_are_copied(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "target").mkdir()
    copy_existing(("a", "b"), tmp_path, tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["../other/weights", "/etc/passwd", "inner/file"])
def test_a_manifest_that_points_out_of_its_checkpoint_vouches_for_nothing(
    tmp_path: Path, name: str
) -> None:
    path = make(tmp_path, step=1)
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    (found,) = find(tmp_path)
    assert unlisted(found) is None
    manifest["files"][name] = "0" * 64
    write_json(path / MANIFEST, manifest)
    (found,) = find(tmp_path)
    assert name in (unlisted(found) or "")
