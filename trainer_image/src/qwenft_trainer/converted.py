"""A list of records on disk → the flat layout, once a run, so that every rank maps it."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from qwenft_trainer import flat
from qwenft_trainer.by_node import on_each_node
from qwenft_trainer.checkpoint import from_rank_0
from qwenft_trainer.data import Splits, load, save_flat


def load_once(
    path: Path | str,
    folder: Path,
    *,
    vocab_size: int,
    apart: bool = False,
    warn: Callable[[str], None] = print,
) -> Splits:
    """Load a dataset; one that is not flat is first converted into ``folder``, by rank 0.

    Later attempts find it there. Where ``folder`` cannot be written every rank reads the original,
    which ``warn`` is told by the rank that tried. ``apart``: each node has a folder of its own,
    which its first rank converts into. Collective; raises :class:`DatasetInvalid` on all ranks
    alike.
    """
    path = Path(path)
    if path.suffix == flat.SUFFIX:
        return load(path, vocab_size=vocab_size)
    convert = partial(_converted_or_not, path, folder, vocab_size, warn)
    found = on_each_node(convert) if apart else from_rank_0(convert)
    return load(found, vocab_size=vocab_size)


def _converted_or_not(
    path: Path, folder: Path, vocab_size: int, warn: Callable[[str], None]
) -> Path:
    try:
        return _converted(path, folder, vocab_size)
    except OSError as error:
        warn(f"{path} is not converted, every rank reads it by itself: {error}")
        return path


def _converted(path: Path, folder: Path, vocab_size: int) -> Path:
    target = folder / f"{path.stem}-{_state(path)}{flat.SUFFIX}"
    if not target.is_file():
        splits = load(path, vocab_size=vocab_size)
        folder.mkdir(parents=True, exist_ok=True)
        save_flat(splits, target)
    return target


def _state(path: Path) -> str:
    """Return a word that is another one when the file is."""
    state = path.stat() if path.is_file() else None
    text = repr((str(path), state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
