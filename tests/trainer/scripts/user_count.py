"""What a model is made of, printed: counts, names, shapes, groups; and other optimizers."""

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


total = sum(value.numel() for value in model.parameters())
trained = sum(p.nelement() for p in model.parameters() if p.requires_grad)
print(f"parameters {total} trained {trained} by the model {model.num_parameters()}")
for index, (name, value) in enumerate(model.named_parameters()):
    if index % 12 == 0:
        print(name, *value.shape, value.dtype, value.requires_grad)
print("keys", len(list(model.state_dict())), len(dict(model.named_parameters())))
first, *rest = [value for name, value in model.named_parameters() if "layers.3." in name]
optimizer = torch.optim.AdamW([first], lr=1e-2, amsgrad=True, eps=1e-6, maximize=False)
optimizer.add_param_group({"params": rest, "lr": 1e-3, "betas": (0.8, 0.9)})
others = [value for name, value in model.named_parameters() if "layers.3." not in name]
second = torch.optim.RMSprop(others, lr=1e-4, momentum=0.5, centered=True)
model.train()
for batch in loader:
    loss = run(batch).loss
    loss.backward()
    optimizer.step()
    second.step()
    for one in (optimizer, second):
        one.zero_grad(set_to_none=False)
    print(f"loss {loss.item():.6f}")
print("states", len(optimizer.state_dict()["param_groups"][1]["params"]))
model.save_pretrained(args.output)
