"""The demo's text, tokenizer and model, made from a small library instead of Python's own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

from launching.tokenizer import tokenizer
from qwenft_cli import document
from qwenft_trainer import prepare, stdlib_sample
from qwenft_trainer.data import load
from qwenft_trainer.stdlib_sample import CONFIG, records, shuffled, train_tokenizer

pytestmark = pytest.mark.torch

SOURCE = '''
"""A module's own docstring is about no definition."""


def add(a: int, b: int = 2, *rest: int) -> int:
    """Return the sum."""
    def inner(x):
        """Return x."""
    return a + b


async def fetch(url):
    """Fetch a page.

    Waits for it.
    """


def silent():
    return 1


class Box(dict, metaclass=type):
    """Holds things."""

    def get(self, key):
        """Return one of them."""


if True:
    def guarded():
        """Defined under a condition."""
'''


def library(folder: Path, **files: str) -> Path:
    """Write files, ``a__b`` standing for ``a/b.py``."""
    for name, source in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return folder


def found(folder: Path) -> dict[str, str]:
    return {record["prompt"]: record["response"] for record in records(folder)}


def test_each_documented_definition_is_a_signature_and_its_docstring(tmp_path: Path) -> None:
    assert found(library(tmp_path, shop__things=SOURCE)) == {
        "def shop.things.add(a: int, b: int=2, *rest: int) -> int": "Return the sum.",
        "def shop.things.add.inner(x)": "Return x.",
        "async def shop.things.fetch(url)": "Fetch a page.\n\nWaits for it.",
        "class shop.things.Box(dict)": "Holds things.",
        "def shop.things.Box.get(self, key)": "Return one of them.",
        "def shop.things.guarded()": "Defined under a condition.",
    }


def test_a_package_speaks_under_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text('def sell():\n    """Sell."""\n')
    assert found(tmp_path) == {"def shop.sell()": "Sell."}


@pytest.mark.parametrize(
    "folder", ["test", "tests", "site-packages", "dist-packages", "idle_test", "__pycache__"]
)
def test_what_is_not_the_library_itself_is_left_out(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "a" / folder / "b.py"
    path.parent.mkdir(parents=True)
    path.write_text(SOURCE)
    assert found(tmp_path) == {}


@pytest.mark.parametrize("content", [b"print 'two'", b"x = '\\d'\n\xff", b"a\x00b", b""])
def test_a_file_that_does_not_parse_is_passed_over(tmp_path: Path, content: bytes) -> None:
    library(tmp_path, good='def one():\n    """One."""\n')
    (tmp_path / "bad.py").write_bytes(content)
    assert found(tmp_path) == {"def good.one()": "One."}


def test_sources_are_parsed_and_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    library(tmp_path, loud=f'open({str(trace)!r}, "w")\ndef one():\n    """One."""\n')
    assert found(tmp_path) == {"def loud.one()": "One."}
    assert not trace.exists()


def test_repetitions_are_dropped_and_the_rest_is_shuffled_alike_each_time() -> None:
    rows = [{"prompt": str(n % 40), "response": "x"} for n in range(80)]
    first, again = shuffled(rows), shuffled(iter(rows))
    assert first == again
    assert len(first) == 40
    assert {row["prompt"] for row in first} == {str(n) for n in range(40)}
    assert [row["prompt"] for row in first] != [str(n) for n in range(40)]


def test_shuffling_moves_no_random_numbers_of_the_caller() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    shuffled([{"prompt": str(n), "response": ""} for n in range(9)])
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("text", ["def add(a, b):", "größe 大きさ 🙂", "\x00\t\n  spaces  ", ""])
def test_every_text_survives_the_tokenizer(text: str) -> None:
    assert tokenizer().decode(tokenizer()(text)["input_ids"]) == text


def test_the_tokenizers_special_tokens_are_its_first_ids() -> None:
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer().convert_tokens_to_ids(names) == [0, 1, 2]
    assert tokenizer().eos_token_id == tokenizer().pad_token_id == 0
    assert len(tokenizer()) <= CONFIG["vocab_size"]


def test_training_a_tokenizer_twice_gives_the_same_tokenizer() -> None:
    texts = ["the sum of two numbers", "the first of two items"] * 5
    one, two = train_tokenizer(texts), train_tokenizer(texts)
    assert one.get_vocab() == two.get_vocab()


def test_the_model_is_a_small_untied_qwen_and_the_same_each_time() -> None:
    state: dict[str, Any] = {}
    torch.manual_seed(5)
    expected = torch.rand(1)
    for _ in range(2):
        torch.manual_seed(5)
        model = stdlib_sample.make_model()
        assert torch.equal(torch.rand(1), expected)
        weights = model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in state.items())
        state = weights
    count = sum(value.numel() for value in state.values())
    assert 10e6 < count < 30e6
    assert model.config.model_type == "qwen2"
    assert model.config.eos_token_id == 0
    assert not model.config.tie_word_embeddings


def test_the_whole_sample_is_written_and_fits_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "".join(
        f'def function_{n}(a, b):\n    """Return number {n} of them, given a and b."""\n\n\n'
        for n in range(300)
    )
    folder = library(tmp_path / "lib", numbers=source)
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(folder))
    monkeypatch.setattr(stdlib_sample, "LEAST_RECORDS", 300)
    output = tmp_path / "data"
    assert prepare.main(["--stdlib-sample", str(output)]) == 0
    told = capsys.readouterr().out
    assert "300 records, a model and its tokenizer" in told
    lines = (output / "records.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["response"].startswith("Return number ")
    splits = load(output / "qwen_dataset.pt", vocab_size=CONFIG["vocab_size"])
    assert splits.validation is not None
    assert (len(splits.train), len(splits.validation)) == (300 - 256, 256)
    config = json.loads((output / "model" / "config.json").read_text())
    assert {name: config[name] for name in CONFIG} == CONFIG
    reader = prepare.load_tokenizer(str(output / "model"))
    first = reader.decode(splits.validation.rows([0])[0][0])
    assert first.startswith(f"{json.loads(lines[-256])['prompt']}\n")
    assert first.endswith("<|endoftext|>")
    assert f"qwenft run {output}/run.yaml" in told
    run = document.load(str(output / "run.yaml"))
    assert run.spec.dataset.path == str(output / "qwen_dataset.pt")
    assert {**run.spec.model.config, "model_type": "qwen2"} == {"model_type": "qwen2", **CONFIG}
    assert run.spec.training.sequence_length == stdlib_sample.LENGTH
    for path in (output / "model").iterdir():
        assert path.stat().st_mode & 0o444 == 0o444, path.name


def test_a_python_without_its_sources_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(library(tmp_path, a=SOURCE)))
    assert prepare.main(["--stdlib-sample", str(tmp_path / "data")]) == 70
    assert "only 6 documented functions" in capsys.readouterr().err
    assert not (tmp_path / "data" / "qwen_dataset.pt").exists()


def test_preparing_data_brings_nothing_that_only_fp8_needs() -> None:
    script = """if True:
        import sys
        from qwenft_trainer import prepare
        assert prepare.main(["--input", "nothing.jsonl"]) == 65
        from qwenft_trainer.hidden import hidden
        with hidden("torchao"):
            import transformers.quantizers.auto
        assert "torchao" not in sys.modules
        import torchao  # and it is found again
    """
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
