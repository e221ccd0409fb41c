"""A user's script with the one line, which notes when each of its steps ended."""

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

torch.moreh.option.enable_advanced_parallelization()

from speed.work import CLIP, RATE, Work, padded  # noqa: E402 - after the line, as scripts do

directory, times, load = sys.argv[1:]
work = Work(**json.loads(load))
model = AutoModelForCausalLM.from_pretrained(directory)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=True)
told = {"ends": [], "losses": []}
for samples in work.batches():
    loss = model(**padded(samples), use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()
    told["losses"].append(loss.item())
    told["ends"].append(time.perf_counter())
Path(times).write_text(json.dumps(told), encoding="utf-8")
