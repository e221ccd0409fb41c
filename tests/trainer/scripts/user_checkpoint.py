"""A checkpoint of its own: weights, optimizer and schedule, taken up again."""

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
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
model.train()
for step, batch in enumerate(loader):
    loss = run(batch).loss
    loss.backward()
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    print(f"loss {loss.item():.6f}")
    if step == 1:
        state = {"model": model.state_dict(), "scheduler": scheduler.state_dict()}
        state["optimizer"] = optimizer.state_dict()
        torch.save(state, f"{args.output}.ckpt")  # the checkpoint
        again = torch.load(f"{args.output}.ckpt")
        model.load_state_dict(again["model"])
        optimizer.load_state_dict(again["optimizer"])
        scheduler.load_state_dict(again["scheduler"])
