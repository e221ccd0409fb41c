"""A script whose ranks do not do the same: --fault says in what."""

import argparse
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--output")
parser.add_argument("--fault")
args = parser.parse_args()

rank = int(os.environ.get("RANK", "0"))
torch.moreh.option.enable_advanced_parallelization()
model = AutoModelForCausalLM.from_pretrained(args.model).train()
tokenizer = AutoTokenizer.from_pretrained(args.model)
ids = torch.arange(1, 65).reshape(8, 8)


def train(batch):
    model(batch, labels=batch).loss.backward()  # the batch
    print("trained")


train(ids)
if args.fault == "rank 1 ends early" and rank == 1:
    sys.exit()
if args.fault == "rank 0 ends early" and rank == 0:
    sys.exit()
if args.fault == "rank 1 leaves the loop" and rank == 1:
    model.save_pretrained(args.output)
    sys.exit()
if args.fault == "rank 1 stands still" and rank == 1:
    time.sleep(9)
if "rank 1" in args.fault or args.fault == "rank 0 ends early":
    train(ids)
if args.fault == "rank 1 evaluates alone" and rank == 1:
    model(ids, labels=ids).loss.item()  # the batch
if args.fault == "other tokens":
    train(ids + rank)
if args.fault == "another order":
    train(ids.flip(0) if rank else ids)
if args.fault == "another length":
    train(ids[:, : 8 - rank])
if args.fault == "other labels":
    model(ids, labels=ids.clone().fill_(1 + rank)).loss.backward()  # the batch
if args.fault == "rank 0 saves and trains" and rank == 0:
    model.save_pretrained(args.output)  # the save
if args.fault == "rank 0 saves" and rank == 0:
    model.save_pretrained(args.output)  # the save
if args.fault == "rank 1 saves" and rank == 1:
    model.save_pretrained(args.output)  # the save
if args.fault == "rank 0 gathers" and rank == 0:
    torch.save(model.state_dict(), args.output)  # the save
with torch.no_grad():
    evaluated = model(ids, labels=ids)
if args.fault == "rank 0 reads logits" and rank == 0:
    print(evaluated.logits.shape)  # the save
if args.fault == "rank 0 writes" and rank == 0:
    torch.save({"step": 1}, args.output)  # the save
if args.fault == "rank 0 saves the tokenizer" and rank == 0:
    tokenizer.save_pretrained(args.output)  # the save
if args.fault == "rank 0 saves and trains":
    train(ids)
print("ended")
