"""A loop with what real scripts do beyond the tutorial's: see the comments."""

import argparse
from itertools import islice

import torch
from torch.nn.utils import clip_grad_norm_  # bound at the top, before the line
from torch.optim import AdamW
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--dataset")
parser.add_argument("--output")
args = parser.parse_args()

torch.moreh.option.enable_advanced_parallelization()
torch.manual_seed(7)

model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
model.to("cuda")
model.gradient_checkpointing_enable()
tokenizer = AutoTokenizer.from_pretrained(args.model)
data = torch.load(args.dataset)


def collate(rows):
    """Pad to the batch's longest row: a new length nearly every step."""
    longest = max(int(row["attention_mask"].sum()) for row in rows)
    return {key: torch.stack([row[key][:longest] for row in rows]) for key in rows[0]}


train = DataLoader(data["train"], batch_size=8, shuffle=True, collate_fn=collate)  # uneven end
held_out = DataLoader(data["validation"], batch_size=5, collate_fn=collate)


def labelled(batch):
    batch = {key: value.to("cuda") for key, value in batch.items()}
    batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    return batch


# Weight decay by name, as the old examples have it.
plain = [v for n, v in model.named_parameters() if n.endswith(("bias", "norm.weight"))]
decayed = [v for n, v in model.named_parameters() if not n.endswith(("bias", "norm.weight"))]
groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
optimizer = AdamW([g for g in groups if g["params"]], lr=2e-3)
scheduler = get_linear_schedule_with_warmup(optimizer, 2, 10)
ACCUMULATED = 2


@torch.no_grad()
def evaluate():
    model.eval()
    losses = [model(**labelled(batch)).loss.item() for batch in held_out]
    model.train()
    return sum(losses) / len(losses)


model.train()
for index, batch in enumerate(train):
    outputs = model(**labelled(batch), use_cache=False)
    value = outputs.loss.item()  # before backward
    (outputs.loss / ACCUMULATED).backward()
    print(f"loss {value:.6f}")
    if index == 2:
        print(f"validation {evaluate():.6f}")  # between two halves of an accumulated step
    if (index + 1) % ACCUMULATED == 0:
        norm = clip_grad_norm_(model.parameters(), 1.0)
        print(f"norm {norm.item():.6f}")
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

print(f"validation {evaluate():.6f}")
model.eval()
model.gradient_checkpointing_disable()
prompt = data["validation"][0]["input_ids"][None, :4].cuda()
with torch.no_grad():
    logits = model(prompt).logits
print(f"logits {logits.shape[-1]} {logits.double().abs().mean().item():.5f}")
tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6)
print("generated", *tokens[0].tolist())
for weights in islice(model.state_dict().items(), 1):
    print("first weight", weights[0], tuple(weights[1].shape))
torch.save(model.state_dict(), f"{args.output}.pt")
model.save_pretrained(args.output)
tokenizer.save_pretrained(args.output)
