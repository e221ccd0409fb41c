"""A norm that is summed up in a tensor, as an older recipe has it."""

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


model.train()
run(next(iter(loader))).loss.backward()
total = torch.zeros(())
for value in model.parameters():
    if value.grad is not None:
        total += value.grad.norm() ** 2  # the sum
print(f"norm {total.sqrt():.5f}")
