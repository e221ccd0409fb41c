"""Frozen embeddings, a rate for each layer, no decay for biases, clipping of what is trained."""

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


groups = []
for name, value in model.named_parameters():
    if "embed_tokens" in name or "layers.0." in name:
        value.requires_grad = False
        continue
    deep = 0.5 if "layers.1." in name else 1.0
    decay = 0.0 if value.ndim == 1 else 0.1
    groups.append({"params": [value], "lr": 2e-3 * deep, "weight_decay": decay})
optimizer = torch.optim.AdamW(groups)
model.train()
for batch in loader:
    loss = run(batch).loss
    loss.backward()
    trained = filter(lambda p: p.requires_grad, model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    print(f"loss {loss.item():.6f} norm {norm:.6f}")
model.save_pretrained(args.output)
