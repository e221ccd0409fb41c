"""The demo's text: what the standard library of this Python says about its own functions.

It is real English about real code and lies on every machine. The sources are parsed, never
imported: some modules open windows or browsers on import. Everything below a fixed seed is a
function of the Python version alone.
"""

import ast
import json
import sysconfig
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qwenft_trainer import prepare
from qwenft_trainer.failure import TrainerError
from qwenft_trainer.prepare import Request
from qwenft_trainer.shards import Options

SEED = 0
LENGTH = 96
"""Tokens a row: signature and the first paragraphs of nearly all docstrings."""
VALIDATION_RECORDS = 256
LEAST_RECORDS = 5000
END_OF_TEXT, MESSAGE_START, MESSAGE_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CONFIG: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
"""The model: Qwen1.5's architecture with 10.2 million parameters: small enough for two cores."""

RUN = """\
# A first fine-tune, without a cluster: qwenft run run.yaml
# On a cluster these paths lie in volumes, or are URLs of an object store.
apiVersion: qwenft.dev/v1alpha1
kind: QwenFineTune
metadata:
  name: first-run
spec:
  model:
    path: {model}
    config:
      model_type: qwen2
{config}
  dataset:
    path: {data}
  training:
    maxSteps: 30
    batchSize: 16
    sequenceLength: 96
    learningRate: 2.0e-3
    warmupSteps: 5
    scheduler: cosine
    precision: fp32
  output:
    path: {out}
"""
"""A QwenFineTune without ``resources``: it takes what there is."""

_LEFT_OUT = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
_Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def write(directory: Path) -> None:
    """Write ``records.jsonl``, ``model/``, ``qwen_dataset.pt`` and ``run.yaml`` into a directory.

    Raises :class:`~qwenft_trainer.failure.TrainerError` where Python came without its sources.
    """
    from transformers.utils import logging  # noqa: PLC0415 - takes seconds; --help needs none

    logging.disable_progress_bar()  # of one file that takes no time
    started = time.monotonic()
    directory.mkdir(parents=True, exist_ok=True)
    found = shuffled(records(Path(sysconfig.get_path("stdlib"))))
    if len(found) < LEAST_RECORDS:
        raise TrainerError(
            f"only {len(found)} documented functions; is this Python's library whole?"
        )
    held_out, rest = found[:VALIDATION_RECORDS], found[VALIDATION_RECORDS:]
    _write_records([*rest, *held_out], directory / "records.jsonl")
    tokenizer = train_tokenizer(f"{r['prompt']}\n{r['response']}" for r in found)
    tokenizer.save_pretrained(directory / "model")
    make_model().save_pretrained(directory / "model")
    for path in (directory / "model").iterdir():
        path.chmod(0o644)  # the run's pods are another user than the one who prepares
    prepare.build(
        Request(
            inputs=(str(directory / "records.jsonl"),),
            hold_out=VALIDATION_RECORDS,
            tokenizer=str(directory / "model"),
            output=directory / "qwen_dataset.pt",
            options=Options(length=LENGTH),
        )
    )
    run = directory / "run.yaml"
    run.write_text(run_text(directory.resolve()), encoding="utf-8")
    seconds = time.monotonic() - started
    line = f"{directory}: {len(found)} records, a model and its tokenizer, in {seconds:.0f} s"
    print(f"{line}\nTrain it here: qwenft run {run}")  # noqa: T201 - a command line


def run_text(directory: Path) -> str:
    """Return a run that trains the sample on the machine that made it, in half a minute or so."""
    config = "\n".join(f"      {name}: {json.dumps(value)}" for name, value in CONFIG.items())
    return RUN.format(config=config, **{
        name: json.dumps(str(directory / place))
        for name, place in (("model", "model"), ("data", "qwen_dataset.pt"), ("out", "result"))
    })  # fmt: skip


def records(library: Path) -> Iterator[dict[str, str]]:
    """Yield ``{"prompt": signature, "response": docstring}`` of each documented definition."""
    for path in sorted(library.rglob("*.py")):
        inner = path.relative_to(library)
        if not _LEFT_OUT.isdisjoint(inner.parts):
            continue
        module = ".".join(inner.with_suffix("").parts).removesuffix(".__init__")
        tree = _parse(path)
        if tree is not None:
            yield from _definitions(tree, module)


def shuffled(found: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Drop repetitions and shuffle, so that the held-out records are like the others."""
    import torch  # noqa: PLC0415 - parsing alone needs none

    unique = list({(r["prompt"], r["response"]): r for r in found}.values())
    generator = torch.Generator().manual_seed(SEED)
    return [unique[i] for i in torch.randperm(len(unique), generator=generator).tolist()]


def train_tokenizer(texts: Iterable[str]) -> Any:
    """Train a byte-level BPE tokenizer and wrap it as Hugging Face's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[END_OF_TEXT, MESSAGE_START, MESSAGE_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
    )


def make_model() -> Any:
    """Return a model with random weights, a function of :data:`SEED`."""
    import torch  # noqa: PLC0415 - see shuffled
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    # The tokenizer's first special token, <|endoftext|>, has id 0.
    config = Qwen2Config(**CONFIG, bos_token_id=None, eos_token_id=0, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return Qwen2ForCausalLM(config)


def _parse(path: Path) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in old modules
        try:
            return ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            return None  # lib2to3 keeps Python 2 files


def _definitions(node: ast.AST, scope: str) -> Iterator[dict[str, str]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _Documented):
            yield from _definitions(child, scope)
            continue
        text = ast.get_docstring(child)
        if text:
            yield {"prompt": _signature(child, scope), "response": text}
        yield from _definitions(child, f"{scope}.{child.name}")


def _signature(node: _Documented, scope: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {scope}.{node.name}({bases})"
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{word} {scope}.{node.name}({ast.unparse(node.args)}){result}"


def _write_records(found: Iterable[dict[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in found)
