"""``qwenft prepare``: records → a dataset file that the trainer reads.

What it reads and writes stands in :mod:`qwenft_trainer.prepare_arguments`.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenft_trainer import flat, inputs, shards
from qwenft_trainer.failure import DatasetInvalid, ModelInvalid, TrainerError
from qwenft_trainer.hidden import hidden
from qwenft_trainer.prepare_arguments import parser
from qwenft_trainer.shards import Options, Shard, Work

LEAST_LENGTH = 2
"""Tokens a row: one that predicts and one that is predicted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to make of what. ``hold_out``: so many of the last records, or below 1 that part."""

    inputs: tuple[str, ...]
    validation: tuple[str, ...] = ()
    hold_out: float = 0
    tokenizer: str
    output: Path
    options: Options
    workers: int = 1
    json: bool = False
    """Tell of what was made in JSON, for a script; all else goes to standard error then."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return 0, 65 (bad records or options), 66 (bad tokenizer) or 70."""
    return carry_out(parser().parse_args(argv))


def carry_out(args: argparse.Namespace) -> int:
    """Do what the arguments say; return as :func:`main` does."""
    try:
        with hidden("torchao"):  # seconds, and remarks of torch's, for nothing
            _make_what_is_asked(args)
    except TrainerError as error:
        print(f"qwenft prepare: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return error.exit_code
    return 0


def _make_what_is_asked(args: argparse.Namespace) -> None:
    if args.stdlib_sample is None:
        build(_request(args))
        return
    if args.json:
        raise DatasetInvalid("--json tells of records; it goes with --input, not --stdlib-sample")
    from qwenft_trainer import stdlib_sample  # noqa: PLC0415 - brings transformers

    stdlib_sample.write(args.stdlib_sample)


def _request(args: argparse.Namespace) -> Request:
    if not 0 <= args.validation_fraction < 1:
        raise DatasetInvalid("--validation-fraction must be at least 0 and below 1")
    if args.length < LEAST_LENGTH:
        raise DatasetInvalid(f"--length must be at least {LEAST_LENGTH}, not {args.length}")
    if args.workers < 1:
        raise DatasetInvalid(f"--workers must be at least 1, not {args.workers}")
    if args.output.suffix not in (".pt", flat.SUFFIX):
        raise DatasetInvalid(f"--output must be named *.pt or *{flat.SUFFIX}, not {args.output}")
    return Request(
        inputs=tuple(args.input),
        validation=tuple(args.validation or ()),
        hold_out=0 if args.validation else args.validation_fraction,
        tokenizer=args.tokenizer,
        output=args.output,
        options=Options(length=args.length, mask_prompt=args.mask_prompt, shape=args.format),
        workers=args.workers,
        json=args.json,
    )


def build(request: Request) -> None:
    """Make the dataset file; raises a :class:`TrainerError` that names what is wrong."""
    train = tuple(inputs.blocks(inputs.expand(request.inputs)))
    held_out = tuple(inputs.blocks(inputs.expand(request.validation), split="validation"))
    loaded = load_tokenizer(request.tokenizer) if request.tokenizer else None
    work = Work(
        folder=request.output.with_name(f"{request.output.name}.work"),
        blocks=(*train, *held_out),
        options=request.options,
        tokenizer=request.tokenizer,
    )
    try:
        total = _make(request, work, loaded)
        lengths = _split(request, work, len(train))
        _write(request, work, lengths, loaded)
    except OSError as error:
        raise TrainerError(f"{request.output}: cannot be written: {error}") from None
    shutil.rmtree(work.folder, ignore_errors=True)
    if request.json:
        print(json.dumps(_told(request, lengths, total), indent=2))  # noqa: T201 - a command line
    else:
        _tell(request, lengths, total)


def load_tokenizer(name: str) -> Any:
    """Load a tokenizer; raises :class:`ModelInvalid` naming it."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - takes seconds; --help needs none

    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # noqa: BLE001 - damaged files raise all kinds
        raise ModelInvalid(f"{name}: no tokenizer can be loaded: {error}") from None


def _make(request: Request, work: Work, loaded: Any) -> Shard:
    """Make all shards under a progress bar; returns their counts together."""
    from tqdm import tqdm  # noqa: PLC0415 - comes with transformers; --help needs none

    done = shards.open_work(work, loaded)
    if done:
        going_on = f"going on: {done} of {len(work.blocks)} parts were done"
        print(going_on, file=sys.stderr if request.json else sys.stdout)
    total = Shard()
    size = sum(block.size or block.end - block.begin for block in work.blocks)
    with tqdm(total=size, unit="B", unit_scale=True, disable=None, desc="prepare") as bar:
        for number, shard in shards.make(work, loaded, workers=request.workers):
            total += shard
            block = work.blocks[number]
            bar.set_postfix(records=total.samples, tokens=total.tokens, refresh=False)
            bar.update(block.size or block.end - block.begin)
    return total


def _split(request: Request, work: Work, train: int) -> dict[str, npt.NDArray[np.int64]]:
    """Return the lengths of each split's samples; the first ``train`` blocks are for training."""
    names = ", ".join(request.inputs)
    lengths = work.lengths(range(train))
    held_out = work.lengths(range(train, len(work.blocks)))
    if request.validation and not len(held_out):
        raise DatasetInvalid(f"{', '.join(request.validation)}: no record is there to validate on")
    if request.hold_out:
        part = request.hold_out if request.hold_out >= 1 else len(lengths) * request.hold_out
        cut = max(0, len(lengths) - max(1, round(part)))
        lengths, held_out = lengths[:cut], lengths[cut:]
    if not len(lengths):
        raise DatasetInvalid(f"{names}: no record is left to train on")
    return {"train": lengths} | ({"validation": held_out} if len(held_out) else {})


def _write(
    request: Request, work: Work, lengths: dict[str, npt.NDArray[np.int64]], loaded: Any
) -> None:
    numbers = range(len(work.blocks))
    files = {kind: [work.file(n, kind) for n in numbers] for kind in ("tokens", "trained")}
    if request.output.suffix == flat.SUFFIX:
        flat.write(request.output, lengths, tokens=files["tokens"], trained=files["trained"])
        return
    from qwenft_trainer import padded  # noqa: PLC0415 - brings torch

    padded.write(
        request.output,
        lengths,
        tokens=np.concatenate([np.fromfile(file, "<i4") for file in files["tokens"]]),
        trained=np.concatenate([np.fromfile(file, np.bool_) for file in files["trained"]]),
        width=request.options.length,
        pad=padding(loaded),
    )


def padding(loaded: Any) -> int:
    """Return the token that fills rows up: the tokenizer's padding, else its end, else 0."""
    found = (getattr(loaded, name, None) for name in ("pad_token_id", "eos_token_id"))
    return int(next((token for token in found if token is not None), 0))


def _told(
    request: Request, lengths: dict[str, npt.NDArray[np.int64]], total: Shard
) -> dict[str, Any]:
    return {
        "output": str(request.output),
        "splits": {
            name: {"records": len(each), "tokens": int(each.sum())}
            for name, each in lengths.items()
        },
        "trainedPredictions": total.trained,
        "cutRecords": total.cut,
        "idleRecords": total.idle,
    }


def _tell(request: Request, lengths: dict[str, npt.NDArray[np.int64]], total: Shard) -> None:
    for name, each in lengths.items():
        line = f"{request.output}: {name}: {len(each)} records, {int(each.sum())} tokens"
        print(line)  # noqa: T201 - a command line
    notes = f"{total.trained} predictions are trained; {total.cut} records were cut to "
    notes += f"{request.options.length} tokens"
    if total.idle:
        notes += f"; {total.idle} train nothing (their answers lie beyond the cut)"
    print(notes)  # noqa: T201 - a command line
