"""An optimizer of one's own, a schedule by hand, and weights decayed in place."""

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


class Signs(torch.optim.Optimizer):
    """Lion, as people copy it."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                p.data.mul_(1 - group["lr"] * group["weight_decay"])
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"] = torch.zeros_like(p)
                average, (first, second) = state["exp_avg"], group["betas"]
                update = average * first + p.grad * (1 - first)
                p.add_(update.sign(), alpha=-group["lr"])
                average.mul_(second).add_(p.grad, alpha=1 - second)


optimizer = Signs(model.parameters(), lr=2e-4, weight_decay=0.1)
model.train()
for _ in range(2):
    for index, batch in enumerate(loader):
        for group in optimizer.param_groups:
            group["lr"] = 2e-4 * (index + 1) / 4
        loss = run(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.6f} rate {optimizer.param_groups[0]['lr']:.5f}")
