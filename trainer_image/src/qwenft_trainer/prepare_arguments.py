"""The arguments of ``qwenft prepare``, without what carrying it out needs."""

import argparse
from pathlib import Path

from qwenft_trainer.shapes import SHAPES

_DESCRIPTION = """\
Turn records into a dataset file that the trainer reads.

Reads JSONL, JSON arrays, Parquet, directories written by datasets'
save_to_disk, and dataset files of older versions. A record is {"prompt",
"response"}, {"messages"}, ShareGPT's {"conversations"}, Alpaca's
{"instruction", "input", "output"} or {"input_ids"}; its keys tell which.
Conversations go through the tokenizer's own chat template.

An output named *.safetensors is the trainer's own flat file: it is written
piece by piece in bounded memory, and mapped by the trainer. An output named
*.pt is what a script's DataLoader takes, rows padded to --length, {"train":
[{"input_ids", "attention_mask"}, …], "validation": …}; all of it is in memory
while it is written. Killed and started again with the same arguments, the
command goes on where it was.
"""


def parser() -> argparse.ArgumentParser:
    """Return the command's parser; ``--help`` needs neither torch nor a tokenizer."""
    made = argparse.ArgumentParser(prog="qwenft prepare")
    declare(made)
    return made


def declare(made: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and what it does."""
    made.description = _DESCRIPTION
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input", nargs="+", metavar="FILE", help="training records: files, globs or directories"
    )
    source.add_argument(
        "--stdlib-sample",
        type=Path,
        metavar="DIR",
        help="write a sample instead: records, dataset, a small model, and run.yaml to train it",
    )
    made.add_argument("--validation", nargs="+", metavar="FILE", help="held-out records")
    made.add_argument(
        "--validation-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="hold out this part of --input instead (the last records)",
    )
    made.add_argument("--tokenizer", default="", metavar="DIR", help="model directory or name")
    made.add_argument(
        "--output", type=Path, default=Path("qwen_dataset.pt"), metavar="FILE",
        help="the dataset file, *.safetensors or *.pt (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--length", type=int, default=1024, help="tokens a row at most")
    made.add_argument(
        "--format", choices=tuple(SHAPES), help="the records' shape, where keys do not tell"
    )
    made.add_argument(
        "--mask-prompt", action="store_true", help="train on the answers only, not on prompts"
    )
    made.add_argument(
        "--json", action="store_true", help="print the counts as JSON, with the file's name"
    )
    made.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes; the output is the same"
    )
