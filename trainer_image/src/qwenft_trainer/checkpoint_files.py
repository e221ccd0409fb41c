"""The files of checkpoints: finding, checking and removing them, without torch.

The manifest is written last, so a directory without one is not a checkpoint. It lists every file's
digest; a checkpoint is whole exactly when all of them agree.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
# What reading a file that is no such JSON may raise; the last one is of arrays nested without end.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A checkpoint's manifest, and where it lies. ``files`` maps names to digests."""

    path: Path
    step: int
    attempt: int
    identity: str
    files: Mapping[str, str]
    notes: Mapping[str, Any]

    @property
    def validation_loss(self) -> float | None:
        """The validation loss at this step, where it was evaluated."""
        return figure(self.notes, "validationLoss")

    def files_of(self, rank: int, ranks: int) -> dict[str, str]:
        """Return the share of files that ``rank`` of ``ranks`` checks."""
        return dict(sorted(self.files.items())[rank::ranks])


def find(directory: Path) -> tuple[Found, ...]:
    """Return the checkpoints with a readable manifest, the best to resume from first.

    A later attempt's come before an earlier one's of more steps: they may have diverged.
    """
    found = [_read(path) for path in directory.glob(f"step-*/{MANIFEST}")]
    whole = [entry for entry in found if entry is not None]
    return tuple(sorted(whole, key=lambda entry: (entry.attempt, entry.step), reverse=True))


def _read(path: Path) -> Found | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Found(
            path=path.parent,
            step=int(content["step"]),
            attempt=int(content["attempt"]),
            identity=str(content["identity"]),
            files={name: str(each) for name, each in content["files"].items()},
            notes=dict(content["notes"].items()),
        )
    except _DAMAGE:
        return None


def figure(notes: Mapping[str, Any], name: str) -> float | None:
    """Return a note that is a finite number; None for any other, and where there is none."""
    value = notes.get(name)
    try:
        return value if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None


def last_attempt(fence: Path, identity: str) -> int:
    """Return which attempt of the run a fence names; 0 where there is none, or another run's."""
    try:
        content = json.loads(fence.read_text(encoding="utf-8"))
        return int(content["attempt"]) if content["identity"] == identity else 0
    except _DAMAGE:
        return 0


def digests(directory: Path, *, prefix: str) -> dict[str, str]:
    """Return the digest of each file whose name begins with ``prefix``."""
    return {path.name: digest(path) for path in sorted(directory.glob(f"{prefix}*"))}


def digest(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path, files: Mapping[str, str]) -> str | None:
    """Return what is wrong with the first damaged file, or None."""
    for name, expected in files.items():
        try:
            actual = digest(directory / name)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        if actual != expected:
            return f"{name} is damaged (its SHA-256 is not the manifest's)"
    return None


def unlisted(found: Found) -> str | None:
    """Return why the manifest does not account for the directory, or None.

    A manifest that lists too little would vouch for files that it does not know.
    """
    if strange := foreign(found):
        return strange
    there = {path.name: path for path in found.path.iterdir() if path.name != MANIFEST}
    if surplus := sorted(there.keys() - found.files.keys()):
        return f"{surplus[0]} is not in {MANIFEST}"
    for name, path in there.items():
        if path.is_symlink() or not path.is_file():  # reading a pipe would never end
            return f"{name} is no plain file"
    return None


def foreign(found: Found) -> str | None:
    """Return what the manifest lists that is no file of its directory, or None.

    To be asked before a file is fetched: a name may lead anywhere.
    """
    strange = sorted(name for name in found.files if not is_plain(name))
    if not strange:
        return None
    return f"{MANIFEST} lists {strange[0]!r}, which is no file of the checkpoint"


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in the directory itself."""
    return Path(name).name == name and name.isprintable() and name not in {"", ".."}


def remove_old(
    directory: Path, *, keep: int, attempt: int, identity: str, keep_best: bool = False
) -> None:
    """Keep the ``keep`` newest checkpoints of this run; another run's and surplus ones go.

    With ``keep_best`` the one of the lowest validation loss stays as well.
    """
    there = find(directory)
    ours = [found for found in there if found.identity == identity and found.attempt <= attempt]
    stay = ours[: max(1, keep)]
    if keep_best:
        stay.append(best(ours) or ours[0])
    stay += [found for found in there if found.identity == identity and found.attempt > attempt]
    for found in there:
        if found not in stay:
            shutil.rmtree(found.path, ignore_errors=True)


def best(found: Sequence[Found]) -> Found | None:
    """Return the checkpoint of the lowest validation loss, the earliest of equal ones."""
    known = [entry for entry in found if entry.validation_loss is not None]
    return min(known, key=lambda entry: (entry.validation_loss, entry.step), default=None)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all, and onto the disk before returning.

    Raises :class:`OSError` that names the file, which that of a full disk does not by itself.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make renames in a directory survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_existing(names: Iterable[str], source: Path, target: Path) -> None:
    """Copy those files that exist."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
