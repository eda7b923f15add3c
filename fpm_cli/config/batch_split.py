"""How a global batch is split over ranks and forward passes: the rule of training and of planning."""

from dataclasses import dataclass

from fpm_cli.config.sections import TrainConfig
from fpm_cli.errors import UsageError


@dataclass(frozen=True)
class BatchSplit:
    """The global batch is num_ranks * num_micro_batches * micro_batch sequences."""

    num_ranks: int
    micro_batch: int  # sequences per forward pass
    num_micro_batches: int  # forward passes per rank and step

    @property
    def sequences_per_rank(self) -> int:
        """What one rank processes in one step."""
        return self.micro_batch * self.num_micro_batches


def split_batch(train: TrainConfig, num_ranks: int) -> BatchSplit:
    """Split `train.global_batch` into equal shares, with the largest micro-batch that divides a share.

    Raises:
        UsageError: the batch does not divide over that many ranks.
    """
    batch = train.global_batch
    if num_ranks < 1 or batch % num_ranks:
        raise UsageError(
            f"train.global_batch {batch} does not divide over {num_ranks} processes; "
            f"{usable_ranks(train, num_ranks)} would do"
        )
    share = batch // num_ranks
    micro_batch = _largest_divisor(share, train.micro_batch)
    return BatchSplit(num_ranks, micro_batch, share // micro_batch)


def usable_ranks(train: TrainConfig, num_devices: int) -> int:
    """The largest number of ranks, up to `num_devices`, over which the global batch divides."""
    return _largest_divisor(train.global_batch, max(1, num_devices))


def _largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(min(number, limit), 0, -1) if number % d == 0)
