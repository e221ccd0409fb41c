"""Programs that run in pods of the trainer image: the tests' datasets, and scripts of their own."""

from __future__ import annotations

__all__ = ["CRAMMING", "DATASETS", "HOARDING", "LOADING", "POISONING", "RAISING"]

DATASETS = '''
"""Write a small dataset, one with a token that the model does not have, and one that is damaged."""
import torch

content = torch.load("/data/qwen_dataset.pt")
small = {"train": content["train"][:32], "validation": content["validation"][:8]}
torch.save(small, "/data/tiny.pt")
outside = {"train": [{k: v.clone() for k, v in row.items()} for row in small["train"]]}
outside["train"][3]["input_ids"][5] = 4096
torch.save(outside, "/data/outside.pt")
whole = open("/data/tiny.pt", "rb").read()
open("/data/corrupt.pt", "wb").write(whole[: len(whole) // 2])
print("written")
'''

LOADING = '''
"""Load an exported model strictly and let it continue a signature."""
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(folder)
print("missing", len(info["missing_keys"]), "unexpected", len(info["unexpected_keys"]))
prompt = tokenizer("def json.dumps(obj)", return_tensors="pt")
made = model.generate(**prompt, max_new_tokens=8, do_sample=False)
print("generated", made.shape[1] - prompt["input_ids"].shape[1])
'''

RAISING = """
import torch

torch.moreh.option.enable_advanced_parallelization()
raise RuntimeError("the script's own complaint")
"""

CRAMMING = """
import json
import os
import sys

import torch

torch.moreh.option.enable_advanced_parallelization()
with open(os.environ["QWENFT_PLAN"]) as file:
    needed = json.load(file)["predicted"]["memory_gib"]
if needed > float(sys.argv[1]):
    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {needed} GiB.")
"""
"""Plays a device that holds so many GiB: raises torch's own error where the plan expects more."""

HOARDING = """
import sys

import torch

torch.moreh.option.enable_advanced_parallelization()
hoard = bytearray(int(sys.argv[1]) * 2**20)
hoard[::4096] = bytes([1]) * len(hoard[::4096])
"""

POISONING = '''
"""Put a weight that is no number into a run's newest checkpoint, as a faulty device would have.

The digests are renewed: the checkpoint is whole, and was saved so.
"""
import io
import json
import sys
from pathlib import Path

import torch

from qwenft_trainer.checkpoint_files import MANIFEST, digest, find
from qwenft_trainer.checkpoint_reader import read_contents

newest = find(Path(sys.argv[1]) / "checkpoints")[0]
table = read_contents(newest.path).storage_data
index = min((at for at in table if at.fqn.endswith("norm.weight")), key=lambda at: at.fqn)
place = table[index]
file, begin, size = newest.path / place.relative_path, place.offset, place.length
content = bytearray(file.read_bytes())
weight = torch.load(io.BytesIO(content[begin : begin + size]), weights_only=True)
damaged = io.BytesIO()
torch.save(torch.full_like(weight, float("nan")), damaged)
assert len(damaged.getvalue()) == size
content[begin : begin + size] = damaged.getvalue()
file.write_bytes(content)
manifest = json.loads((newest.path / MANIFEST).read_text())
manifest["files"][file.name] = digest(file)
(newest.path / MANIFEST).write_text(json.dumps(manifest))
print("step", newest.step)
'''
