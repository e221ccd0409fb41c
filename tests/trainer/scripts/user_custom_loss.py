"""A loss computed from the logits."""

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
    logits = model(**batch).logits  # the call
    flat = logits[:, :-1].flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(flat, batch["input_ids"][:, 1:].flatten())
    loss.backward()
    optimizer.step()
