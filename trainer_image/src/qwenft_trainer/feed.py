"""From a step's number to this rank's rows: the same samples under every plan and every attempt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from qwenft_plan.plan import Plan
from qwenft_trainer.arrange import arrange, is_free
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

    def rows(self, samples: Sequence[int]) -> Batch | tuple[Batch, ...]:
        """Return this rank's part of a global batch (or of any number of samples).

        Samples share rows where that makes rows fewer. Where the plan lets micro-batches differ in
        shape they are made here, with as little padding as can be.
        """
        return self.micro_batches(samples) if is_free(self.plan) else self.batch(samples)

    def micro_batches(self, samples: Sequence[int]) -> tuple[Batch, ...]:
        """Return this rank's micro-batches, equally many on every rank.

        A rank that has run out of rows gets micro-batches that train nothing.
        """
        lengths = self.lengths[list(samples)].tolist()
        layout = pack(lengths)
        widths = [sum(lengths[place] for place in row) for row in layout]
        most = self.plan.micro_batch_size * self.limit
        groups = arrange(widths, ranks=self.plan.dp, most=most)[data_index(self.mesh)]
        return tuple(
            self._laid_out(samples, [layout[row] for row in group])
            if group
            else self._laid_out(samples, [layout[-1]]).untrained()
            for group in groups
        )

    def _laid_out(self, samples: Sequence[int], layout: Sequence[Sequence[int]]) -> Batch:
        """Read samples into rows; ``layout`` names their places in ``samples``, row by row."""
        order = [place for row in layout for place in row]
        tokens, labels = self._read([samples[place] for place in order])
        if len(order) == len(layout):
            return Batch.from_samples(tokens, labels)
        numbers = iter(range(len(order)))
        return packed(tokens, labels, [[next(numbers) for _ in row] for row in layout])

    def _read(self, samples: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        tokens, labels = self.dataset.rows(samples)
        return [row[: self.limit] for row in tokens], [row[: self.limit] for row in labels]

    def batch(self, samples: Sequence[int]) -> Batch:
        """Return this rank's consecutive share of the samples as rows of one length.

        Every rank gets equally many rows, for each must join in every collective: a rank that has
        fewer gets rows that train nothing.
        """
        shares = self._shares(samples)
        mine = shares[data_index(self.mesh)]
        layouts = [pack(self.lengths[share].tolist()) if share else () for share in shares]
        count = max(len(layout) for layout in layouts)
        tokens, labels = self._read(mine or samples[:1])
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
