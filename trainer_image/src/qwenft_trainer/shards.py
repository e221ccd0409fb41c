"""Blocks of records → shards of tokens on disk, by several processes, and again after a kill.

A shard is finished when its record ``<number>.json`` is there; it is written last. Whoever comes
again to the same inputs with the same settings finds the finished shards and makes the rest. Since
a shard depends on its block alone, so does the result, however many processes there were.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenft_trainer import inputs
from qwenft_trainer.failure import DatasetInvalid, ModelInvalid
from qwenft_trainer.inputs import Block, Place
from qwenft_trainer.shapes import BadRecordError, Text, shape_of, text_of

BATCH = 256
"""Records that are tokenized at a time, which bounds the memory."""
VERSION = 1

Row = tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]
"""One sample: its tokens, and which of them are trained."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How records become samples of at most ``length`` tokens. ``shape`` None: told by the keys."""

    length: int
    mask_prompt: bool = False
    shape: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """What a finished shard holds: counts of samples and tokens.

    ``cut`` samples were longer than a row, ``idle`` ones train nothing.
    """

    samples: int = 0
    tokens: int = 0
    trained: int = 0
    cut: int = 0
    idle: int = 0

    def __add__(self, other: "Shard") -> "Shard":
        """Add the counts up."""
        mine, theirs = asdict(self), asdict(other)
        return Shard(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The directory of shards of one job, and the job's blocks in order."""

    folder: Path
    blocks: tuple[Block, ...]
    options: Options
    tokenizer: str

    def shard(self, number: int) -> Shard | None:
        """Return a finished shard's counts, or None."""
        try:
            entry = json.loads(self.file(number, "json").read_text(encoding="utf-8"))
            shard = Shard(**entry)
            sizes = [self.file(number, kind).stat().st_size for kind in ("tokens", "trained")]
        except (OSError, ValueError, TypeError):
            return None
        return shard if sizes == [4 * shard.tokens, shard.tokens] else None

    def file(self, number: int, kind: str) -> Path:
        """Return the path of one file of a shard: tokens, trained, lengths or json."""
        return self.folder / f"{number:06d}.{kind}"

    def lengths(self, numbers: Iterable[int]) -> npt.NDArray[np.int64]:
        """Return the lengths of all samples of shards, in tokens."""
        parts = [np.fromfile(self.file(number, "lengths"), "<i8") for number in numbers]
        return np.concatenate((np.empty(0, np.int64), *parts))


def open_work(work: Work, loaded: Any) -> int:
    """Make the work's directory, or find it; returns how many shards are finished.

    What other inputs or other settings left behind is removed.
    """
    wanted = _fingerprint(work, loaded)
    note = work.folder / "work.json"
    found = note.read_text(encoding="utf-8") if note.is_file() else ""
    if found != wanted:
        shutil.rmtree(work.folder, ignore_errors=True)
        work.folder.mkdir(parents=True)
        note.write_text(wanted, encoding="utf-8")
    return sum(work.shard(number) is not None for number in range(len(work.blocks)))


def _fingerprint(work: Work, loaded: Any) -> str:
    """Name everything that the shards depend on."""
    backend = getattr(loaded, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else work.tokenizer
    chat = repr((getattr(loaded, "chat_template", None), getattr(loaded, "eos_token", None)))
    entries = {
        "version": VERSION,
        "options": asdict(work.options),
        "tokenizer": hashlib.sha256((text + chat).encode()).hexdigest(),
        "blocks": [asdict(block) for block in work.blocks],
        "files": sorted({(block.path, *_state(block.path)) for block in work.blocks}),
    }
    return json.dumps(entries, sort_keys=True)


def _state(path: str) -> tuple[int, int]:
    files = [Path(path), *(Path(path).rglob("*") if Path(path).is_dir() else ())]
    states = [file.stat() for file in files]
    return sum(s.st_size for s in states), max(s.st_mtime_ns for s in states)


def make(work: Work, loaded: Any, *, workers: int = 1) -> Iterator[tuple[int, Shard]]:
    """Make the shards that are missing and yield all of them in order, with their numbers.

    Raises :class:`DatasetInvalid` for the first bad record, naming file and line.
    """
    missing = [n for n in range(len(work.blocks)) if work.shard(n) is None]
    with _pool(work, min(workers, len(missing)), loaded) as made:
        fresh = iter(made(missing))
        for number in range(len(work.blocks)):
            yield number, next(fresh) if number in missing else _finished(work, number)


def _finished(work: Work, number: int) -> Shard:
    shard = work.shard(number)
    if shard is None:
        raise DatasetInvalid(f"{work.folder}: shard {number} was removed while it was needed")
    return shard


@contextmanager
def _pool(work: Work, workers: int, loaded: Any) -> Iterator[Any]:
    if workers <= 1:
        yield lambda numbers: (make_shard(work, number, loaded) for number in numbers)
        return
    # Nothing was tokenized yet, so no thread is lost by forking; a fresh interpreter would import
    # transformers anew in every worker.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here[:] = [work, loaded]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            try:
                yield lambda numbers: pool.map(_make_here, numbers)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


_here: list[Any] = []


def _make_here(number: int) -> Shard:
    return make_shard(_here[0], number, _here[1])


def make_shard(work: Work, number: int, loaded: Any) -> Shard:
    """Read one block and write its shard; raises :class:`DatasetInvalid` naming file and line."""
    total = Shard()
    paths = {kind: work.file(number, kind) for kind in ("tokens", "trained", "lengths")}
    with (
        paths["tokens"].open("wb") as tokens,
        paths["trained"].open("wb") as trained,
        paths["lengths"].open("wb") as lengths,
    ):
        records = inputs.read(work.blocks[number])
        while batch := list(islice(records, BATCH)):
            for ids, flags in rows(batch, loaded, work.options):
                kept, marks = ids[: work.options.length], flags[: work.options.length]
                tokens.write(kept.astype("<i4").tobytes())
                trained.write(marks.tobytes())
                lengths.write(len(kept).to_bytes(8, "little"))
                total += _count(kept, marks, was=len(ids))
    note = work.file(number, "json.part")
    note.write_text(json.dumps(asdict(total)), encoding="utf-8")
    note.replace(work.file(number, "json"))
    return total


def _count(ids: npt.NDArray[np.int32], flags: npt.NDArray[np.bool_], *, was: int) -> Shard:
    trained = int(flags[1:].sum())  # nothing predicts the first token
    return Shard(samples=1, tokens=len(ids), trained=trained, cut=was > len(ids), idle=trained == 0)


def rows(batch: Sequence[tuple[Place, Any]], loaded: Any, options: Options) -> Iterator[Row]:
    """Yield the samples of some records, not yet cut to the length."""
    texts: list[Text | Row] = [_text_or_row(*entry, loaded, options) for entry in batch]
    encoded = iter(_encode([text for text in texts if isinstance(text, Text)], loaded, options))
    for (place, _), text in zip(batch, texts, strict=True):
        ids, flags = next(encoded) if isinstance(text, Text) else text
        if not len(ids):
            raise DatasetInvalid(f"{place}: has not a single token")
        yield ids, flags


def _text_or_row(place: Place, record: Any, loaded: Any, options: Options) -> Text | Row:
    try:
        shape = options.shape or (shape_of(record) if isinstance(record, Mapping) else None)
        if shape == "tokens":
            return _row(record, place)
        return text_of(record, loaded, shape=shape, mask_prompt=options.mask_prompt)
    except BadRecordError as error:
        raise DatasetInvalid(f"{place}: {error}") from None


def _row(record: Any, place: Place) -> Row:
    from qwenft_trainer.records import row  # noqa: PLC0415 - brings torch

    ids, flags = row(record, where=place)
    return ids.numpy().astype(np.int32), flags.numpy()


def _encode(texts: Sequence[Text], loaded: Any, options: Options) -> Iterator[Row]:
    if not texts:
        return
    if options.mask_prompt and not loaded.is_fast:
        raise ModelInvalid("--mask-prompt needs a fast tokenizer, one with a tokenizer.json")
    # Special tokens stand in the text where they belong; none is added on top.
    found = loaded(
        [text.content for text in texts],
        add_special_tokens=False,
        return_offsets_mapping=options.mask_prompt,
        return_attention_mask=False,
        verbose=False,
    )
    for index, text in enumerate(texts):
        ids = np.array(found["input_ids"][index], np.int32)
        flags = np.ones(len(ids), np.bool_)
        if options.mask_prompt:
            flags = _inside(np.array(found["offset_mapping"][index]).reshape(-1, 2), text.answers)
        yield ids, flags


def _inside(
    spans: npt.NDArray[np.int64], answers: Sequence[tuple[int, int]]
) -> npt.NDArray[np.bool_]:
    """Tell which tokens touch an answer; one that spans the border is trained."""
    flags = np.zeros(len(spans), np.bool_)
    for begin, end in answers:
        flags |= (spans[:, 0] < end) & (spans[:, 1] > begin)
    return flags
