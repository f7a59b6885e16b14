"""Under a launcher: Muon on FSDP2's shards is Muon on whole matrices, for one gather of each."""

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.optim import Optimizer

from mypt_dist.optim.muon import MuonConfig

SHAPES = [(33, 16), (16, 33), (16, 3), (1, 16), (5, 7)]
"""Rows that do not divide by the ranks, and fewer rows than there are ranks."""


class Matrices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.ParameterList(torch.randn(shape) for shape in SHAPES)
        self.gain = nn.Parameter(torch.ones(16))

    def forward(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        wanted = [torch.randn(shape, generator=generator) for shape in SHAPES]
        misses = [(m - w).square().sum() for m, w in zip(self.matrices, wanted, strict=True)]
        return torch.stack(misses).sum() + self.gain.square().sum()


def train(model: nn.Module, optimizer: Optimizer) -> dict[str, int]:
    for seed in range(3):
        model(seed).backward()
        with CommDebugMode() as counting:
            optimizer.step()
        optimizer.zero_grad()
    return {str(name): count for name, count in counting.get_comm_counts().items()}


dist.init_process_group("gloo")
torch.manual_seed(0)
plain = Matrices()
sharded = copy.deepcopy(plain)
fully_shard(sharded)
config = MuonConfig(lr=0.01)
train(plain, config.build(plain))
counts = train(sharded, config.build(sharded))
for (name, whole), shard in zip(plain.named_parameters(), sharded.parameters(), strict=True):
    assert isinstance(shard, DTensor)
    assert torch.equal(shard.full_tensor(), whole), name
assert list(counts.values()) == [len(SHAPES)], counts
dist.destroy_process_group()
