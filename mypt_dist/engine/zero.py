"""DeepSpeed's ZeRO, stages 1 to 3: flat partitions of the fp32 master weights and of the optimizer's state."""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

from accelerate import Accelerator, DeepSpeedPlugin
from torch import Tensor, nn
from torch.optim import Optimizer

from mypt_dist.engine.placement import LocalTensor, allocate_state
from mypt_dist.engine.trainable import Accept, StepRecipe, Trainable, Update
from mypt_dist.engine.zero_gate import gate_of
from mypt_dist.errors import ConfigError
from mypt_dist.world import JSON

PERSISTENT_PARAMETERS = 100_000
"""ZeRO-3 keeps smaller parameters whole: gathering norms and biases costs more time than they take memory."""


BUCKET = 50_000_000
"""Elements of a communication buffer. DeepSpeed's own default is ten times that, 2 GB of fp32 for any model."""


class Plugin(DeepSpeedPlugin):  # type: ignore[misc]  # accelerate has no types
    """Accelerate's plugin, without its detour through Transformers, which training needs not have installed."""

    def set_deepspeed_weakref(self) -> None:
        """Nothing: only Transformers' own loading of weights asks for it."""


def plugin(precision: str) -> Plugin:
    """DeepSpeed's settings: the launch file's, but for what the run file owns."""
    # Models are built before the engine gets them, so there is nothing to partition while building.
    settings = Plugin(zero3_init_flag=False)
    config = settings.deepspeed_config
    zero = config["zero_optimization"]
    if zero.get("stage") == 3:
        zero.setdefault("stage3_param_persistence_threshold", PERSISTENT_PARAMETERS)
    # torch's fused AdamW on host memory, as everywhere else, and no compiler at the start of a run.
    config["zero_force_ds_cpu_optimizer"] = False
    config["zero_allow_untested_optimizer"] = True
    if precision != "fp32":
        # Sums over ranks in 16 bits would lose what the global batch gains.
        config.setdefault("communication_data_type", "fp32")
    return settings


def do_not_compile() -> None:
    """Sum over CPU ranks with gloo alone, as every other engine.

    DeepSpeed would compile a faster sum at the first start, for a minute, and a start that is killed meanwhile leaves
    behind a lock that every later one waits for, for ever.
    """
    # Not imported by a statement: the package has an attribute of the module's name, which is torch itself.
    import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]


def quiet() -> None:
    """DeepSpeed's notes on itself, and torch's on DeepSpeed, are for those who develop them."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed.c10d_logger")


class Zero(Trainable):
    """ZeRO (Rajbhandari et al., 2020, arXiv:1910.02054)."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, recipe: StepRecipe) -> None:
        _refuse_whole_matrices(optimizer)
        _refuse_frozen(model)
        self._rank, self._ranks = accelerator.process_index, accelerator.num_processes
        if recipe.hold_gradients:
            raise ConfigError("train.hold_gradients: true: ZeRO decides itself; remove it or use FSDP2")
        config = accelerator.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = recipe.micro_batch
        config["gradient_accumulation_steps"] = recipe.micro_batches
        config["train_batch_size"] = recipe.micro_batch * recipe.micro_batches * self._ranks
        config["gradient_clipping"] = recipe.max_norm
        # Even, because DeepSpeed aligns parts of a buffer to four bytes of 16-bit numbers.
        bucket = min(BUCKET, 2 * -(-sum(parameter.numel() for parameter in model.parameters()) // 2))
        for key in ("reduce_bucket_size", "allgather_bucket_size"):
            config["zero_optimization"].setdefault(key, bucket)
        accelerator.gradient_accumulation_steps = recipe.micro_batches
        self._engine: Any
        self._engine, _ = accelerator.prepare(model, optimizer)
        self.model = self._engine
        self._zero: Any = self._engine.optimizer
        self._stage = int(self._engine.zero_optimization_stage())
        self._gate = gate_of(self._zero, self._stage)

    @property
    def module(self) -> nn.Module:
        inner: nn.Module = self._engine.module
        return inner

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self._zero.param_groups
        return groups

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed averages over ranks: the factor makes a sum of it.
        self._engine.backward(loss * self._ranks, scale_wrt_gas=False)

    def settle(self, ids: Tensor) -> None:
        """Nothing: partitions are laid out for good."""

    def scaler_state(self) -> dict[str, JSON]:
        scaler = self._dynamic_scaler()
        if scaler is None:
            return {}
        since = scaler.cur_iter - max(scaler.last_overflow_iter, 0)
        return {"scale": float(scaler.cur_scale), "steps_since_change": int(since)}

    def load_scaler_state(self, state: dict[str, JSON]) -> None:
        scaler = self._dynamic_scaler()
        if scaler is not None and state:
            scaler.cur_scale = float(state["scale"])  # type: ignore[arg-type]  # written by scaler_state
            scaler.last_overflow_iter = scaler.cur_iter - int(state["steps_since_change"])  # type: ignore[arg-type]

    def _dynamic_scaler(self) -> Any:
        scaler = getattr(self._zero, "loss_scaler", None)
        return scaler if getattr(scaler, "dynamic", False) else None

    def _share_gradients(self, last: bool) -> AbstractContextManager[None]:
        # Told before forward and backward; DeepSpeed holds back what its stage allows.
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def replicas(self) -> list[Tensor]:
        # Stage 3 shares weights out; stages 1 and 2 keep all of them, in the type of computation, on every rank.
        return [] if self._stage == 3 else [parameter.detach() for parameter in self.module.parameters()]

    @property
    def copy_group(self) -> int:
        return 0

    def _update(self, accept: Accept) -> Update:
        # DeepSpeed clips and steps in one go: it asks on its way, where fp16 looks for overflows.
        self._gate.accept = accept
        self._engine.step()
        return Update(self._gate.norm, skipped=not self._engine.was_step_applied())

    def _allocate_state(self) -> None:
        if self._stage < 3:
            allocate_state(self._zero.optimizer)
            return
        # Between steps ZeRO-3 hands its optimizer one group of partitions at a time.
        self._zero._set_fp32_optimizer_param_groups()
        allocate_state(self._zero.optimizer)
        self._zero._clear_fp32_optimizer_param_groups()

    def _after_loading(self) -> None:
        zero = self._zero
        if self._stage < 3:
            zero.update_lp_params()
            return
        for number in range(len(zero.fp16_groups)):
            zero._reassign_or_swap_out_partitioned_parameters(number)
        if zero.persistent_parameters:
            # They are whole at this moment, and were gathered from what has just been overwritten.
            zero.persistent_parameters[0].partition(zero.persistent_parameters)
            zero.persistent_parameters[0].all_gather(zero.persistent_parameters)

    def _held(self, *, moments: bool) -> Iterator[LocalTensor]:
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        for parameter, partition, offset, start, length in self._fragments():
            name, shape = names[id(parameter)], tuple(getattr(parameter, "ds_shape", parameter.shape))
            if length > 0:
                yield LocalTensor(f"model/{name}", shape, start, partition.detach().narrow(0, offset, length))
            for key, value in self._zero.optimizer.state[partition].items() if moments else ():
                if value.ndim == 0:
                    # A partition's step counter is that of all its parameters; every rank counts for itself.
                    yield LocalTensor(f"optimizer/{key}/{name}", (), 0, value.view(-1), self._rank, self._ranks)
                elif length > 0:
                    flat = value.narrow(0, offset, length)
                    yield LocalTensor(f"optimizer/{key}/{name}", shape, start, flat)

    def _fragments(self) -> Iterator[tuple[nn.Parameter, Tensor, int, int, int]]:
        """Of each parameter: the rank's partition it lies in, the offset there, its own start, and how much of it."""
        zero = self._zero
        if self._stage < 3:
            for group, partition in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
                for parameter in group:
                    mapping = parameter._hp_mapping
                    if mapping is None:
                        yield parameter, partition, 0, 0, 0
                    else:
                        inside, own = mapping.hp_fragment_address, mapping.lp_fragment_address
                        yield parameter, partition, inside.start, own.start, own.numel
            return
        for group, partition in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
            for parameter in group:
                _, offset, padded = zero.grad_position[zero.get_param_id(parameter)]
                start = self._rank * padded
                yield parameter, partition, offset, start, min(padded, math.prod(parameter.ds_shape) - start)


def _refuse_frozen(model: nn.Module) -> None:
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "train.freeze: ZeRO has fp32 weights of what it trains alone, and others would be saved rounded to 16 "
            "bits: use DDP or FSDP2 (launch/accelerate/ddp.yaml, fsdp2.yaml)"
        )


def _refuse_whole_matrices(optimizer: Optimizer) -> None:
    if any(group.get("algorithm") == "muon" for group in optimizer.param_groups):
        raise ConfigError(
            "optimizer.type: muon: ZeRO cuts matrices into flat partitions, Muon needs whole ones: use DDP or FSDP2 "
            "(launch/accelerate/ddp.yaml, fsdp2.yaml), or optimizer.type=adamw"
        )
