"""What every contender trains: one model, one dataset, one order, one batch size."""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

IGNORED = -100
RATE = 1e-3
CLIP = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The fixed load; ``rows`` a global step, lengths log-normal around ``median`` tokens."""

    layers: int = 4
    hidden: int = 256
    vocabulary: int = 8192
    rows: int = 16
    longest: int = 256
    median: int = 90
    spread: float = 0.6
    steps: int = 4
    warm: int = 1

    def samples(self) -> list[torch.Tensor]:
        """Return all samples in training order, int64 [t] each; the same in every process."""
        generator = torch.Generator().manual_seed(1)
        count = self.rows * (self.warm + self.steps)
        drawn = torch.randn(count, generator=generator) * self.spread + math.log(self.median)
        lengths = drawn.exp().round().long().clamp(8, self.longest)
        return [torch.randint(1, self.vocabulary, (int(n),), generator=generator) for n in lengths]

    def batches(self) -> list[list[torch.Tensor]]:
        """Return the samples of each global step."""
        samples = self.samples()
        return [samples[i : i + self.rows] for i in range(0, len(samples), self.rows)]

    def tokens(self) -> list[int]:
        """Return the real tokens of each global step."""
        return [sum(len(s) for s in batch) for batch in self.batches()]

    def fill(self) -> float:
        """Return the share of real tokens in batches padded to their longest sample."""
        padded = sum(len(batch) * max(map(len, batch)) for batch in self.batches())
        return sum(self.tokens()) / padded

    def write_model(self, folder: Path) -> Path:
        """Write the model that all begin with."""
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=self.vocabulary, hidden_size=self.hidden, intermediate_size=self.hidden * 3,
            num_hidden_layers=self.layers, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=2048, tie_word_embeddings=False, pad_token_id=0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        return folder

    def to_json(self) -> str:
        """Return the load as JSON."""
        return json.dumps(asdict(self))


@dataclass(kw_only=True)
class Timed:
    """The clock of one contender's run: one entry a step; warm-up steps count for nothing."""

    work: Work
    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    note: str = ""

    def step(self, loss: float) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        self.losses.append(loss)

    def result(self) -> dict[str, Any]:
        """Return tokens/s of the measured steps, the losses, and the peak beyond the start."""
        seconds = self.ends[-1] - self.ends[self.work.warm - 1]
        tokens = sum(self.work.tokens()[self.work.warm :])
        return {
            "tokens_per_second": tokens / seconds,
            "losses": self.losses,
            "peak_bytes": peak_bytes(),
            "note": self.note,
        }


Contender = Callable[[Work, Path, Timed], None]


def padded(samples: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return one row a sample, as Hugging Face's collators make them."""
    ids = torch.nn.utils.rnn.pad_sequence(list(samples), batch_first=True)
    mask = (torch.arange(ids.shape[1]) < torch.tensor([len(s) for s in samples])[:, None]).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, IGNORED),
    }


def forget_peak() -> None:
    """Let the kernel count this process' peak memory anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """Return the peak of resident memory since :func:`forget_peak`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [text for text in status.splitlines() if text.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def rank() -> int:
    """Return this process' rank."""
    return int(os.environ["RANK"])
