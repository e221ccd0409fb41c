"""Input files cut into blocks that any process can read on its own, record by record.

A block is a range of lines of a JSONL file, of rows of a Parquet file or of a directory written by
``datasets``' ``save_to_disk``; a JSON array and an old dataset file are one block each. How files
are cut depends on the files alone, never on how many processes read them.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from qwenft_trainer.failure import DatasetInvalid

BLOCK_BYTES = 4 << 20
"""Of a JSONL file, a block; a few thousand records."""
BLOCK_ROWS = 10_000
BATCH_ROWS = 256
READ_BYTES = 1 << 20
SPLITS = {"train": ("train",), "validation": ("validation", "test")}
"""Which split of a ``DatasetDict`` is taken for what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a record stands; as text ``file:line`` or ``file: row n``."""

    path: str
    row: int | None = None
    offset: int = 0

    def __str__(self) -> str:
        """Count the lines only when somebody asks, which is when the record is bad."""
        if self.row is not None:
            return f"{self.path}: row {self.row}"
        with open(self.path, "rb") as file:  # noqa: PTH123 - the path is kept as text
            lines = sum(part.count(b"\n") for part in _parts(file, self.offset))
        return f"{self.path}:{lines + 1}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A part of one input: ``kind`` says what ``begin`` and ``end`` count. ``size`` is in bytes."""

    path: str
    kind: str
    split: str = "train"
    begin: int = 0
    end: int = 0
    size: int = 0


def expand(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the files and dataset directories that names and globs stand for, in a fixed order.

    A directory of files stands for the files in it. Raises :class:`DatasetInvalid` naming the
    pattern that nothing fits.
    """
    found: list[str] = []
    for pattern in patterns:
        literal = Path(pattern).exists()
        matches = [pattern] if literal else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
        if not matches:
            raise DatasetInvalid(f"{pattern}: cannot be read: no such file")
        for match in matches:
            found.extend(_inside(Path(match)))
    return tuple(found)


def _inside(path: Path) -> list[str]:
    if not path.is_dir() or is_saved_dataset(path):
        return [str(path)]
    wanted = (".jsonl", ".json", ".parquet")
    files = [str(each) for each in sorted(path.iterdir()) if each.suffix in wanted]
    if not files:
        raise DatasetInvalid(
            f"{path}: is neither a directory written by save_to_disk nor one with *.jsonl, *.json "
            "or *.parquet files"
        )
    return files


def is_saved_dataset(path: Path) -> bool:
    """Tell whether ``datasets`` wrote a directory."""
    return (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()


def blocks(paths: Sequence[str], *, split: str = "train") -> Iterator[Block]:
    """Cut inputs into blocks; ``split`` is what they are for.

    Raises :class:`DatasetInvalid` naming a file that cannot be read.
    """
    for path in paths:
        try:
            yield from _cut(path, split)
        except DatasetInvalid:
            raise
        except Exception as error:  # noqa: BLE001 - damaged files raise whatever their bytes lead to
            raise DatasetInvalid(f"{path}: cannot be read: {_first_line(error)}") from None


def _cut(path: str, split: str) -> Iterator[Block]:
    kind = _kind(Path(path))
    if kind == "saved":
        yield from _ranges(path, kind, split, len(_open_saved(path, split)), size=0)
        return
    size = Path(path).stat().st_size
    if kind == "parquet":
        import pyarrow.parquet  # noqa: PLC0415 - only where such a file is read

        groups = pyarrow.parquet.ParquetFile(path).num_row_groups
        for group in range(groups):
            yield Block(path=path, kind=kind, split=split, begin=group, size=size // groups)
    elif kind == "lines":
        for begin in range(0, size, BLOCK_BYTES):
            end = min(begin + BLOCK_BYTES, size)
            yield Block(path=path, kind=kind, split=split, begin=begin, end=end, size=end - begin)
    else:
        yield Block(path=path, kind=kind, split=split, end=size, size=size)


def _ranges(path: str, kind: str, split: str, rows: int, *, size: int) -> Iterator[Block]:
    for begin in range(0, rows, BLOCK_ROWS):
        end = min(begin + BLOCK_ROWS, rows)
        yield Block(path=path, kind=kind, split=split, begin=begin, end=end, size=size)


def _kind(path: Path) -> str:
    if path.is_dir():
        return "saved"
    if path.suffix in (".parquet", ".pt", ".pth"):
        return path.suffix.removeprefix(".").replace("pth", "pt")
    with path.open("rb") as file:
        head = file.read(READ_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    # A line of JSONL could begin a list as well, but no record is one.
    return "array" if head.startswith(b"[") and path.suffix == ".json" else "lines"


def read(block: Block) -> Iterator[tuple[Place, Any]]:
    """Yield a block's records, each with its place.

    Raises :class:`DatasetInvalid` naming file and line.
    """
    try:
        yield from _READERS[block.kind](block)
    except DatasetInvalid:
        raise
    except Exception as error:  # noqa: BLE001 - see blocks
        raise DatasetInvalid(f"{block.path}: cannot be read: {_first_line(error)}") from None


def _lines(block: Block) -> Iterator[tuple[Place, Any]]:
    """Read the lines that begin inside the block."""
    with open(block.path, "rb") as file:  # noqa: PTH123 - the path is kept as text
        offset = block.begin
        if offset:
            file.seek(offset - 1)
            offset += len(file.readline()) - 1
        while offset < block.end:
            line = file.readline()
            place = Place(path=block.path, offset=offset)
            offset += len(line)
            if line.strip():
                yield place, _parsed(line, place)


def _parsed(line: bytes, place: Place) -> Any:
    text = line.removeprefix(b"\xef\xbb\xbf").decode()
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DatasetInvalid(f"{place}: is not JSON: {error}") from None


def _array(block: Block) -> Iterator[tuple[Place, Any]]:
    """Read a JSON array element by element, so that the file never is in memory as a whole."""
    decoder = json.JSONDecoder()
    with open(block.path, encoding="utf-8-sig") as file:  # noqa: PTH123 - the path is kept as text
        buffer, row = file.read(READ_BYTES).lstrip().removeprefix("["), 0
        while True:
            buffer = buffer.lstrip().removeprefix(",").lstrip() if row else buffer.lstrip()
            if buffer.startswith("]"):
                return
            try:
                value, end = decoder.raw_decode(buffer)
            except (json.JSONDecodeError, RecursionError) as error:
                more = file.read(max(READ_BYTES, len(buffer)))
                if not more:
                    place = Place(path=block.path, row=row)
                    raise DatasetInvalid(f"{place}: is not JSON: {error}") from None
                buffer += more
                continue
            yield Place(path=block.path, row=row), value
            buffer, row = buffer[end:], row + 1


def _parquet(block: Block) -> Iterator[tuple[Place, Any]]:
    import pyarrow.parquet  # noqa: PLC0415 - only where such a file is read

    file = pyarrow.parquet.ParquetFile(block.path)
    row = sum(file.metadata.row_group(group).num_rows for group in range(block.begin))
    for batch in file.iter_batches(
        batch_size=BATCH_ROWS, row_groups=[block.begin], use_threads=False
    ):
        for record in batch.to_pylist():
            yield Place(path=block.path, row=row), record
            row += 1


def _open_saved(path: str, split: str) -> Any:
    import datasets  # noqa: PLC0415 - takes seconds, and only such directories need it

    found = datasets.load_from_disk(path)
    if isinstance(found, datasets.DatasetDict):
        name = next((name for name in SPLITS[split] if name in found), None)
        if name is None:
            there = ", ".join(found)
            raise DatasetInvalid(f"{path}: has no {SPLITS[split][0]} split, only {there}")
        found = found[name]
    return found.with_format(None)


def _saved(block: Block) -> Iterator[tuple[Place, Any]]:
    found = _open_saved(block.path, block.split)
    for begin in range(block.begin, block.end, BATCH_ROWS):
        columns = found[begin : min(begin + BATCH_ROWS, block.end)]
        rows = zip(*columns.values(), strict=True)
        for row, values in enumerate(rows, start=begin):
            yield Place(path=block.path, row=row), dict(zip(columns, values, strict=True))


def _old_file(block: Block) -> Iterator[tuple[Place, Any]]:
    from qwenft_trainer.data import content  # noqa: PLC0415 - brings torch, which no other kind needs

    found = content(Path(block.path)).get(block.split)
    for row, record in enumerate(found or ()):
        yield Place(path=block.path, row=row), record


_READERS = {
    "lines": _lines,
    "array": _array,
    "parquet": _parquet,
    "saved": _saved,
    "pt": _old_file,
}


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        part = file.read(min(READ_BYTES, size))
        if not part:
            return
        size -= len(part)
        yield part


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
