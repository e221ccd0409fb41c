"""From a step's number to this rank's rows: the same samples under every plan and every attempt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from qwenft_plan.plan import Plan
from qwenft_trainer.batch import Batch
from qwenft_trainer.data import Dataset, order
from qwenft_trainer.mesh import data_index
from qwenft_trainer.packing import pack, packed


@dataclass(frozen=True, kw_only=True, slots=True)
class Feed:
    """Global batches of a dataset in the order of a seed, and this rank's share of each.

    ``limit`` cuts longer samples, in tokens.
    """

    dataset: Dataset
    plan: Plan
    mesh: DeviceMesh
    seed: int
    limit: int
    trained: Tensor
    lengths: Tensor

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the dataset; the rest of an epoch is dropped."""
        return len(self.dataset) // self.plan.global_batch_size

    def samples(self, step: int) -> list[int]:
        """Return the samples of optimizer step ``step`` (from 0), all ranks together."""
        epoch, index = divmod(step, self.steps_per_epoch)
        size = self.plan.global_batch_size
        indices = order(len(self.dataset), seed=self.seed, epoch=epoch)
        return [int(i) for i in indices[index * size : (index + 1) * size]]

    def batch(self, samples: Sequence[int]) -> Batch:
        """Return this rank's rows of a global batch (or of any number of samples).

        Samples share rows where that makes rows fewer. Every rank gets equally many rows, for each
        must join in every collective: a rank that has fewer gets rows that train nothing.
        """
        shares = self._shares(samples)
        mine = shares[data_index(self.mesh)]
        layouts = [pack(self.lengths[share].tolist()) if share else () for share in shares]
        count = max(len(layout) for layout in layouts)
        tokens, labels = self.dataset.rows(mine or samples[:1])
        tokens = [row[: self.limit] for row in tokens]
        labels = [row[: self.limit] for row in labels]
        if not mine:
            batch = Batch.from_samples(tokens, labels).untrained()
        elif count == len(shares[0]):
            batch = Batch.from_samples(tokens, labels)
        else:
            batch = packed(tokens, labels, layouts[data_index(self.mesh)])
        return batch.padded(rows=count, length=batch.length)

    def _shares(self, samples: Sequence[int]) -> list[Sequence[int]]:
        """Cut the samples into one consecutive share for each data-parallel rank."""
        size = -(-len(samples) // self.plan.dp)
        return [samples[rank * size : (rank + 1) * size] for rank in range(self.plan.dp)]

    def trained_tokens(self, samples: Sequence[int]) -> int:
        """Return how many predictions the samples train, all ranks together."""
        return int(self.trained[list(samples)].sum())

    def tokens(self, samples: Sequence[int]) -> int:
        """Return how many real tokens the samples have, all ranks together."""
        return int(self.lengths[list(samples)].sum())

    def chunks(self) -> Iterator[list[int]]:
        """Walk once over the dataset in its own order, a global batch at a time; for evaluation."""
        size = self.plan.global_batch_size
        for begin in range(0, len(self.dataset), size):
            yield list(range(begin, min(begin + size, len(self.dataset))))


def build_feed(
    dataset: Dataset, plan: Plan, mesh: DeviceMesh, *, seed: int, sequence_length: int
) -> Feed:
    """Prepare a dataset's feed, counting each sample's trained tokens once."""
    return Feed(
        dataset=dataset,
        plan=plan,
        mesh=mesh,
        seed=seed,
        limit=sequence_length,
        trained=dataset.trained_within(sequence_length),
        lengths=dataset.lengths().clamp(max=sequence_length),
    )
