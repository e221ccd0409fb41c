"""Perplexity, a loss without a batch's padding, and texts drawn by chance."""

import argparse

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--dataset")
parser.add_argument("--output")
args = parser.parse_args()

torch.moreh.option.enable_advanced_parallelization()
torch.manual_seed(3)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
data = torch.load(args.dataset)
loader = torch.utils.data.DataLoader(data["train"], batch_size=8, shuffle=True)


def run(batch):
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return model(**batch, labels=labels)


import math  # noqa: E402

optimizer = torch.optim.NAdam(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
held_out = torch.utils.data.DataLoader(data["validation"], batch_size=3)
for _ in range(3):
    model.train()
    for step, batch in enumerate(loader):
        if step == 3:
            break  # never the last, uneven one
        optimizer.zero_grad()
        run(batch).loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        losses = torch.stack([run(batch).loss for batch in held_out])
    schedule.step(losses.mean())
    rate = optimizer.param_groups[0]["lr"]
    print(f"perplexity {math.exp(losses.mean()):.4f} worst {losses.max():.5f} rate {rate:.5f}")
torch.manual_seed(5)
prompt = data["validation"][1]["input_ids"][None, :4]
mask = torch.ones_like(prompt)
drawn = model.generate(prompt, attention_mask=mask, max_new_tokens=6, do_sample=True, top_k=20)
print("drawn", *drawn[0].tolist())
several = model.generate(prompt, attention_mask=mask, max_new_tokens=4, num_beams=2)
print("beams", *several[0].tolist())
