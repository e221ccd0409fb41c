"""A program with main(), whose functions lie in a module beside it."""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM
from user_parts import Rows, collate, evaluate, train_epoch


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--dataset")
    parser.add_argument("--output")
    args = parser.parse_args()
    torch.moreh.option.enable_advanced_parallelization()
    torch.manual_seed(42)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = AutoModelForCausalLM.from_pretrained(args.model)
    model.to(device)
    data = torch.load(args.dataset)
    loader = DataLoader(Rows(data["train"]), batch_size=8, shuffle=True, collate_fn=collate)
    held_out = DataLoader(Rows(data["validation"]), batch_size=4, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(2):
        mean = train_epoch(model, loader, optimizer, next(model.parameters()).device)
        right, count = evaluate(model, held_out, device)
        print(f"epoch {epoch} mean {mean:.6f} right {right} of {count}")
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
