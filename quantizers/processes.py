"""What the processes of torch.distributed do together so that their codebooks stay the same."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


class Processes:
    """The processes of torch.distributed that train together, or this one alone."""

    def __init__(self, synchronized: bool) -> None:
        self.synchronized = synchronized

    @classmethod
    def in_use(cls) -> Processes:
        """All of torch.distributed, where it is running."""
        running = distributed.is_available() and distributed.is_initialized()
        return cls(running and distributed.get_world_size() > 1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of every process's values, in place."""
        if self.synchronized:
            distributed.all_reduce(values)
        return values

    def share(self, values: Tensor) -> Tensor:
        """The first process's values, in place."""
        if self.synchronized:
            distributed.broadcast(values, 0)
        return values

    def draw(self, rows: Tensor, count: int) -> Tensor:
        """At most `count` different ones of all processes' rows (N, width), at random: the same for every process."""
        held = torch.tensor([rows.shape[0]], device=rows.device)
        sizes, rank = [held], 0
        if self.synchronized:
            rank = distributed.get_rank()
            sizes = [torch.empty_like(held) for _ in range(distributed.get_world_size())]
            distributed.all_gather(sizes, held)
        sizes = [int(size) for size in sizes]
        picked = self.share(torch.randperm(sum(sizes))[:count].to(rows.device))
        picked = picked - sum(sizes[:rank])
        mine = (picked >= 0) & (picked < sizes[rank])
        drawn = rows.new_zeros(picked.shape[0], rows.shape[1])
        drawn[mine] = rows[picked[mine]]
        return self.sum(drawn)
