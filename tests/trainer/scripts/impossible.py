"""A script that does what no plan with a pipeline can: --what says which."""

import argparse

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--output")
parser.add_argument("--what")
args = parser.parse_args()

torch.moreh.option.enable_advanced_parallelization()
model = AutoModelForCausalLM.from_pretrained(args.model).train()  # tied
optimizer = AdamW(model.parameters())
ids = torch.arange(1, 65).reshape(8, 8)
outputs = model(ids, labels=ids)
if args.what == "logits":
    print(outputs.logits.mean())  # logits
outputs.loss.backward()
if args.what == "clip":
    clip_grad_norm_(list(model.parameters())[:1], 1.0)  # clip
optimizer.step()
print("trained")
if args.what == "gradients":
    torch.save([value.grad for value in model.parameters()], args.output)  # gradients
print("ended")
