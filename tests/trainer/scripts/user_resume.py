"""A run in two halves: the second begins from the first one's folder and checkpoint."""

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


optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.98))
batches = list(loader)
model.train()


def train(some):
    for batch in some:
        loss = run(batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"loss {loss.item():.6f}")


train(batches[:2])
model.save_pretrained(f"{args.output}-half")
torch.save({"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}, f"{args.output}.pt")
del model, optimizer

model = AutoModelForCausalLM.from_pretrained(f"{args.output}-half", dtype=torch.float32)
model.train()
optimizer = torch.optim.Adam(model.parameters(), lr=9.0)
found = torch.load(f"{args.output}.pt", map_location="cpu")
optimizer.load_state_dict(found["optimizer"])
torch.set_rng_state(found["rng"])
train(batches[2:])
moments = found["optimizer"]["state"]
print("moments", len(moments), *(tuple(moments[index]["exp_avg"].shape) for index in (0, 5, 40)))
model.save_pretrained(args.output)
