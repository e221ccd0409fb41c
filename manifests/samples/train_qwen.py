"""Fine-tune a Qwen model: a plain PyTorch loop, and one line that makes it parallel.

Run it alone:         python -m qwenft_trainer train_qwen.py --model DIR --dataset FILE
Under a plan:         the same with QWENFT_PLAN=plan.json and --nproc-per-node=2 before the script
On a cluster:         put it into a ConfigMap and name that in spec.trainer.script.

The batch size is the whole run's: every rank goes through the same loop with the same batches, and
the plan decides which rank computes what.
"""

import argparse

import torch
from torch.utils.data import DataLoader
from transformers import AdamW, AutoModelForCausalLM, AutoTokenizer


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune a causal language model.")
    parser.add_argument("--model", required=True, help="model directory or hub name")
    parser.add_argument("--dataset", required=True, help="file written by qwenft prepare")
    parser.add_argument("--batch-size", type=int, default=64, help="samples a step, over all ranks")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int, default=0, help="stop early; 0: at the end")
    parser.add_argument("--output", default="", help="where the result goes; nowhere if empty")
    return parser.parse_args()


def labels_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Train on every real token; -100 takes padding out of the loss."""
    return batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)


def main() -> None:
    """Train, print each step's loss, save."""
    args = arguments()
    torch.manual_seed(0)

    # The one line. Without a plan it does nothing.
    torch.moreh.option.enable_advanced_parallelization()

    model = AutoModelForCausalLM.from_pretrained(args.model).cuda()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    samples = torch.load(args.dataset)["train"]
    loader = DataLoader(samples, batch_size=args.batch_size, shuffle=True, drop_last=True)
    optimizer = AdamW(model.parameters(), lr=args.learning_rate)

    model.train()
    step = 0
    for epoch in range(args.epochs):
        for batch in loader:
            batch = {name: value.cuda() for name, value in batch.items()}
            loss = model(**batch, labels=labels_of(batch), use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            print(f"epoch {epoch} step {step} loss {loss.item():.6f}", flush=True)
            if step == args.max_steps:
                break
        if step == args.max_steps:
            break

    if args.output:
        model.save_pretrained(args.output)
        tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
