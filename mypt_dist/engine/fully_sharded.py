"""FSDP2 and HSDP: every rank holds some rows of every tensor, within one replica."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from math import prod

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, ParallelismConfig
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, Replicate, Shard

from mypt_dist.engine.placement import LocalTensor
from mypt_dist.engine.replicated import Accelerated
from mypt_dist.launch import Topology

COMPUTE_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


def plugin(topology: Topology, precision: str) -> FullyShardedDataParallelPlugin:
    """Accelerate's settings for a topology; what the launch file's variables say besides is not asked again."""
    dtype = COMPUTE_DTYPES.get(precision)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=topology.reshard_after_forward,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type="SHARDED_STATE_DICT",
        cpu_offload=topology.offload_parameters,
        # It would untie tied embeddings of models that do not tell Accelerate how to tie them again.
        cpu_ram_efficient_loading=False,
        activation_checkpointing=False,
        # Gradients are summed in fp32: Accelerate's own default would round every rank's share to 16 bits first.
        mixed_precision_policy=None if dtype is None else MixedPrecisionPolicy(dtype, torch.float32),
    )


def mesh_sizes(topology: Topology) -> ParallelismConfig | None:
    """How replicas and shards lie over the ranks; null where there is nothing to shard over."""
    if topology.shards == 1:
        return None
    return ParallelismConfig(dp_replicate_size=topology.replicas, dp_shard_size=topology.shards)


def quiet() -> None:
    """Not to be told at every start what Accelerate does, and what nobody does here: changing an output in place."""
    for message in ("Slicing a flattened dim", "FSDP2-wrapped module .* returned a view"):
        warnings.filterwarnings("ignore", message=message)


def let_cpu_ranks_shard() -> None:
    """Make Accelerate use FSDP2 on a CPU, where it would silently train DDP. Call before `Accelerator`.

    `AcceleratorState` switches to FSDP only from GPU types of distribution. The process group over gloo exists by now,
    so the type it is told makes no other difference.
    """
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def require_sharding(accelerator: Accelerator) -> None:
    """Raise `RuntimeError` if Accelerate is about to train something else than FSDP2."""
    if not accelerator.is_fsdp2 or AcceleratorState().distributed_type != DistributedType.FSDP:
        raise RuntimeError(f"FSDP2 was asked for, Accelerate made {AcceleratorState().distributed_type} of it")


class FullySharded(Accelerated):
    """`fully_shard` (Zhao et al., 2023, arXiv:2304.11277), in replicas if the mesh has them."""

    def replicas(self) -> list[Tensor]:
        # Without replicas of the mesh every row is held once.
        shards = [tensor for tensor in self._held(moments=False) if tensor.copies > 1]
        return [tensor.flat for tensor in shards]

    @property
    def copy_group(self) -> int:
        return int(self._accelerator.process_index) % self._shards

    @property
    def _shards(self) -> int:
        mesh = next(p.device_mesh for p in self.module.parameters() if isinstance(p, DTensor))
        return int(mesh.size(mesh.ndim - 1))

    def _share_gradients(self, last: bool) -> AbstractContextManager[None]:
        # Holding back saves communication and costs a whole gradient on every rank: what sharding was chosen to avoid.
        hold = self._recipe.hold_gradients and not last
        waiting: AbstractContextManager[None] = self._accelerator.no_sync(self.model) if hold else nullcontext()
        return waiting

    def _held(self, *, moments: bool) -> Iterator[LocalTensor]:
        # After an evaluation some groups still stand gathered, in place of the shards that the optimizer knows.
        for part in self.module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()
        rank, ranks = self._accelerator.process_index, self._accelerator.num_processes
        for name, tensor in self._named_state(moments=moments):
            if isinstance(tensor, DTensor):
                shard = _local(name, tensor)
                if shard.flat.numel():
                    yield shard
            else:
                # Step counters: every rank counts for itself.
                yield LocalTensor(name, tuple(tensor.shape), 0, tensor.view(-1), rank, ranks)


def _local(name: str, tensor: DTensor) -> LocalTensor:
    """This rank's rows. The replicas of a row are copies of it."""
    mesh, local = tensor.device_mesh, tensor.to_local()
    *replicated, sharded = tensor.placements
    assert sharded == Shard(0), tensor.placements
    assert all(isinstance(placement, Replicate) for placement in replicated), tensor.placements
    row = prod(tensor.shape[1:])
    chunk = -(-tensor.shape[0] // mesh.size(mesh.ndim - 1))
    first = min(chunk * mesh.get_local_rank(mesh.ndim - 1), tensor.shape[0])
    copy, copies = (mesh.get_local_rank(0), mesh.size(0)) if replicated else (0, 1)
    return LocalTensor(name, tuple(tensor.shape), first * row, local.view(-1), copy, copies)
