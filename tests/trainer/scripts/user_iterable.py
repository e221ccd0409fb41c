"""A stream of samples, transformers' seed, a cosine schedule, prompts that are not trained."""

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


from transformers import get_scheduler, set_seed  # noqa: E402


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        for row in data["train"]:
            ids = row["input_ids"][: int(row["attention_mask"].sum())]
            yield {"input_ids": ids, "labels": torch.cat((ids.new_full((2,), -100), ids[2:]))}


def collate(rows):
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([row["input_ids"] for row in rows], batch_first=True)
    labels = pad([row["labels"] for row in rows], batch_first=True, padding_value=-100)
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids != 0).long()}


set_seed(11)
stream = torch.utils.data.DataLoader(Stream(), batch_size=6, collate_fn=collate)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=10)
model.config.use_cache = False
model.gradient_checkpointing_enable()
model.train()
for epoch in range(2):
    for batch in stream:
        loss, *_ = model(**batch, return_dict=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)
        optimizer.step()
        scheduler.step()
        model.zero_grad()
        print(f"epoch {epoch} loss {loss.item():.6f}")
print(sum(value.numel() for value in model.state_dict().values()), "weights")
model.eval().gradient_checkpointing_disable()
prompt = data["validation"][0]["input_ids"][None, :5]
print(*model.generate(input_ids=prompt, max_new_tokens=5, do_sample=False)[0].tolist())
model.save_pretrained(args.output)
