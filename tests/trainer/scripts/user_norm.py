"""The gradients' norm, computed and applied by hand."""

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


optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
model.train()
for batch in loader:
    loss = run(batch).loss
    loss.backward()
    total = 0.0
    for value in model.parameters():
        if value.grad is not None:
            total += value.grad.detach().data.norm(2).item() ** 2  # the norm
    total = total**0.5
    largest = max(float(value.grad.abs().max()) for value in model.parameters())
    stacked = torch.norm(torch.stack([torch.norm(v.grad) for v in model.parameters()]))
    for value in model.parameters():
        value.grad.mul_(min(1.0, 1.0 / (total + 1e-6)))
    optimizer.step()
    optimizer.zero_grad()
    print(f"loss {loss.item():.6f} norm {total:.5f} {stacked:.5f} largest {largest:.5f}")
model.save_pretrained(args.output)
