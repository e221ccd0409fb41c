"""An average of the weights, kept by hand and saved in their place."""

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
average = {name: value.detach().clone() for name, value in model.named_parameters()}
model.train()
for batch in loader:
    loss = run(batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        for name, value in model.named_parameters():
            average[name].mul_(0.8).add_(value, alpha=0.2)
    print(f"loss {loss.item():.6f}")
with torch.no_grad():
    for name, value in model.named_parameters():
        value.copy_(average[name])
model.eval()
with torch.inference_mode():
    print(f"average {run(data_batch).loss.item():.6f}" if (data_batch := batch) else "")
model.save_pretrained(args.output)
