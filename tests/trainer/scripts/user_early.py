"""Early stopping: the best weights are kept in memory and put back."""

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


optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
held_out = list(torch.utils.data.DataLoader(data["validation"], batch_size=5))
best, kept, worse = float("inf"), None, 0
for epoch in range(4):
    model.train()
    for batch in loader:
        loss = run(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        found = sum(run(batch).loss.item() for batch in held_out) / len(held_out)
    print(f"epoch {epoch} validation {found:.6f}")
    if found < best:
        best, worse = found, 0
        kept = {name: value.clone() for name, value in model.state_dict().items()}
    else:
        worse += 1
    if worse == 2:
        print("stopped early")
        break
model.load_state_dict(kept)  # the load
model.eval()
with torch.no_grad():
    print(f"best {sum(run(batch).loss.item() for batch in held_out) / len(held_out):.6f}")
