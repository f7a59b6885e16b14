"""Who shares what: the part of a run that its launch file owns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

EngineName: TypeAlias = Literal["single", "ddp", "fsdp2", "hsdp", "zero1", "zero2", "zero3"]
"""One process, `DistributedDataParallel`, `fully_shard`, the same within replicas, or a stage of DeepSpeed's ZeRO."""


@dataclass(frozen=True, slots=True)
class Topology:
    """How the ranks of a run share weights, gradients and optimizer state."""

    engine: EngineName = "single"
    ranks: int = 1
    """Over all machines."""
    replicas: int = 1
    """Copies of the sharded model: one per node, usually. 1 but for ``hsdp``."""
    reshard_after_forward: bool = True
    """FSDP2: free a block's gathered weights after its forward pass and gather them again for the backward pass."""
    offload_optimizer: bool = False
    """Keep optimizer state and master weights in host memory, and update them there."""
    offload_parameters: bool = False
    """Keep the weights' shards in host memory too."""

    @property
    def shards(self) -> int:
        """Ranks that one copy of the sharded state is spread over."""
        return 1 if self.engine in ("single", "ddp") else self.ranks // self.replicas

    @property
    def is_fsdp(self) -> bool:
        return self.engine in ("fsdp2", "hsdp")

    @property
    def zero_stage(self) -> int:
        """0 if DeepSpeed has no part in it."""
        return int(self.engine.removeprefix("zero")) if self.engine.startswith("zero") else 0


def promised_ranks(environ: Mapping[str, str]) -> int:
    """How many ranks the launcher says it started: 1 without a launcher.

    `mypt launch` tells its own number too, because `accelerate launch` may start fewer without a word.
    """
    return int(environ.get(EXPECTED_RANKS) or environ.get("WORLD_SIZE", "1"))


EXPECTED_RANKS = "MYPT_EXPECT_RANKS"
"""The variable by which `mypt launch` says how many ranks there must be."""
