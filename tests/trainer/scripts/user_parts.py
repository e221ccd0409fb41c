"""Functions of a script that lie beside it; not a script itself."""

import torch
from tqdm import tqdm


class Rows(torch.utils.data.Dataset):
    """Rows of a list, cut to their tokens."""

    def __init__(self, rows):
        self.rows = [row["input_ids"][: int(row["attention_mask"].sum())] for row in rows]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def collate(rows):
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    return ids, labels


def train_epoch(model, loader, optimizer, device):
    model.train()
    losses = []
    for ids, labels in tqdm(loader, desc="training"):
        ids, labels = ids.to(device), labels.to(device)
        loss = model(ids, attention_mask=labels.ne(-100).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.inference_mode()
def evaluate(model, loader, device):
    model.eval()
    right = count = 0
    for ids, labels in loader:
        mask = labels.ne(-100).long()
        output = model(ids.to(device), attention_mask=mask.to(device), labels=labels.to(device))
        found = output.logits[:, :-1].argmax(-1)
        right += int((found.cpu() == labels[:, 1:]).sum())
        count += int(labels[:, 1:].ne(-100).sum())
    return right, count
