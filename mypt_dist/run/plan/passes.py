"""One forward and backward pass without a byte of data: which tensors a model makes, and when they are alive.

`FakeTensorMode` follows shapes and types through the very code that training runs. Weights, gradients that are done
and optimizer state are left out, because how much of them a rank holds is the engine's affair: see `states`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd.graph import _engine_run_backward

from mypt_dist.optim.freezing import freeze
from mypt_dist.run.plan.allocations import Allocations
from mypt_dist.run.plan.kernels import Kernels
from mypt_dist.run.plan.states import Parameter, Unit

if TYPE_CHECKING:
    from mypt_dist.models import ModelConfig
    from mypt_dist.models.layers.causal_lm import CausalLM
    from mypt_dist.optim import OptimizerConfig

Stage: TypeAlias = Literal["forward", "backward"]
"""The half of a pass."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """In which types an engine lets a model compute."""

    weights: Literal["fp32", "16-bit"] = "fp32"
    """Of the weights that the forward pass sees."""
    autocast: bool = False
    """Whether operations choose their own types, 16-bit ones for matrix products."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The most that was alive at one place of a pass."""

    stage: Stage
    place: int
    """0 before the blocks, then the number of the block from 1, then one more after them."""
    held: int
    """Bytes of gradients that are done and of parameters at this place, in the type of the weights; not in `live`."""
    live: int
    """Bytes of activations, their gradients, 16-bit copies of weights, and everything temporary."""
    before: int
    """The same when the place was entered."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A micro-batch's forward and backward pass, in order of time."""

    moments: tuple[Moment, ...]
    kept: int
    """Bytes alive between forward and backward pass."""

    @property
    def peak(self) -> int:
        """The most that was alive, gradients that are done not counted."""
        return max(moment.live for moment in self.moments)

    @property
    def last(self) -> int:
        """The place after the blocks."""
        return max(moment.place for moment in self.moments)


def survey(
    model: "ModelConfig", optimizer: "OptimizerConfig", frozen: Sequence[str] = ()
) -> tuple[tuple[Parameter, ...], int]:
    """Every parameter with the optimizer state that belongs to it, and the bytes an update needs for itself.

    ``frozen``: patterns on the names of those that are not trained.
    """
    with without_data(gpu=False):
        module = model.build()
        freeze(module, frozen)
        stepper = optimizer.build(module)
        groups = {id(p): number for number, group in enumerate(stepper.param_groups) for p in group["params"]}
        for group in stepper.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        stepper.step()
        state = {id(p): list(values.values()) for p, values in stepper.state.items()}
        products = (part for part in module.modules() if isinstance(part, nn.Linear))
        multiplied = {id(p) for part in products for p in part.parameters(recurse=False)}
        parameters = tuple(
            Parameter(
                name=name,
                shape=tuple(p.shape),
                place=place,
                unit=unit,
                moments=sum(t.element_size() for t in state.get(id(p), ()) if t.ndim),
                counters=sum(t.nbytes for t in state.get(id(p), ()) if not t.ndim),
                optimizer_group=groups.get(id(p), len(stepper.param_groups)),
                multiplied=id(p) in multiplied,
                trained=id(p) in groups,
            )
            for name, p, place, unit in _placed(module)
        )
        peak = Peak()
        with Allocations([*_tensors(module, stepper)], peak.observe):
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            stepper.step()
    return parameters, peak.bytes


def trace(model: "ModelConfig", windows: int, numerics: Numerics, *, gpu: bool, documents: bool = False) -> Pass:
    """The pass over a micro-batch of ``windows``, each as long as the model's context.

    ``gpu``: with the kernels of a GPU instead of those of a CPU. ``documents``: attention stays within documents; on
    a GPU that makes no difference, as its kernel has no mask in memory.
    """
    # On a CPU the loss looks at its labels, so there they are real: to it, all are learned.
    labels = torch.zeros((windows, model.context), dtype=torch.int64)
    with without_data(gpu=gpu):
        with default_dtype(torch.bfloat16 if numerics.weights == "16-bit" else torch.float32):
            module = model.build()
        ids = torch.zeros_like(labels)
        segments = torch.zeros_like(labels) if documents and not gpu else None
        watch = _Watch()
        watch.follow(module)
        with Allocations([*module.parameters(), *module.buffers(), ids], watch.observe) as allocations:
            with torch.autocast("cpu", torch.bfloat16, enabled=numerics.autocast):
                loss = module(ids, labels=ids if gpu else labels, segment_ids=segments)
            kept = allocations.live
            watch.turn()
            _backward(loss)
    return Pass(tuple(watch.moments()), kept)


class Peak:
    """The most bytes that were alive."""

    bytes = 0

    def observe(self, live: int) -> None:
        """For `Allocations`."""
        self.bytes = max(self.bytes, live)


class _Watch:
    """Keeps the largest number of bytes for each place, and takes gradients away as soon as they are done."""

    def __init__(self) -> None:
        self._stage: Stage = "forward"
        self._place = self._last = 0
        self._live = 0
        self._before: dict[tuple[Stage, int], int] = {("forward", 0): 0}
        self._held: dict[int, int] = {}
        self._most: dict[tuple[Stage, int, int], int] = {}

    def observe(self, live: int) -> None:
        self._live = live
        key = (self._stage, self._place, self._held.get(self._place, 0))
        self._most[key] = max(self._most.get(key, 0), live)

    def turn(self) -> None:
        """The forward pass is over."""
        self._stage = "backward"
        self._go_to(self._last)

    def moments(self) -> Iterator[Moment]:
        for (stage, place, held), live in self._most.items():
            yield Moment(stage, place, held, live, self._before[stage, place])

    def follow(self, module: "CausalLM") -> None:
        blocks = blocks_of(module)
        self._last = len(blocks) + 1
        for number, block in enumerate(blocks, start=1):
            block.register_forward_pre_hook(lambda _, inputs, number=number: self._enter(number, inputs))
            block.register_forward_hook(lambda _, inputs, output, number=number: self._leave(number, output))
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(self._take)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def _enter(self, number: int, inputs: tuple[Any, ...]) -> None:
        # In the backward pass this is a block whose activations are computed again.
        if self._stage == "forward":
            self._go_to(number)
            if number == 1:
                _when_its_gradient_is_there(inputs[0], lambda: self._go_to(0))

    def _leave(self, number: int, output: Tensor) -> None:
        if self._stage == "forward":
            if number == self._last - 1:
                self._go_to(self._last)
            _when_its_gradient_is_there(output, lambda: self._go_to(number))

    def _go_to(self, place: int) -> None:
        self._place = place
        self._before.setdefault((self._stage, place), self._live)

    def _take(self, parameter: Tensor) -> None:
        assert parameter.grad is not None, "it has just been accumulated"
        self._held[self._place] = self._held.get(self._place, 0) + parameter.grad.nbytes
        parameter.grad = None


def _when_its_gradient_is_there(tensor: Tensor, do: Any) -> None:
    def hook(_: Tensor) -> None:
        do()

    tensor.register_hook(hook)  # type: ignore[no-untyped-call]  # torch leaves it untyped


@contextmanager
def without_data(*, gpu: bool) -> Iterator[None]:
    """Inside it, tensors have shapes and types alone, and the kernels of a GPU or of a CPU."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(Kernels(gpu=gpu))
        yield


def _backward(loss: Tensor) -> None:
    # Not `Tensor.backward`, in which a function mode is off: blocks may be computed again, with the same kernels.
    start = (torch.ones_like(loss),)
    _engine_run_backward((loss,), start, False, False, (), allow_unreachable=True, accumulate_grad=True)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside it, new weights are of this type."""
    # Parameters without data cannot be cast in place.
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def blocks_of(module: "CausalLM") -> list[nn.Module]:
    """The blocks that FSDP wraps whole, in the order of the forward pass."""
    return [part for part in module.modules() if type(part).__name__ in module._no_split_modules]


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for parameter in module.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    for state in optimizer.state.values():
        yield from state.values()


def _placed(module: "CausalLM") -> Iterator[tuple[str, Tensor, int, Unit]]:
    """Every parameter with its place and the unit that Accelerate makes FSDP2 gather it with."""
    blocks, embed, head = blocks_of(module), module.get_input_embeddings(), module.get_output_embeddings()
    *_, norm = [part for part in module.children() if "Norm" in type(part).__name__]
    tied = {id(p) for p in embed.parameters()} & {id(p) for p in head.parameters()}
    homes: dict[int, tuple[int, Unit]] = {id(p): (0, "root") for p in module.parameters()}
    homes |= {id(p): (0, "embed") for p in embed.parameters()}
    homes |= {id(p): (number, "block") for number, block in enumerate(blocks, start=1) for p in block.parameters()}
    homes |= {id(p): (0 if tied else len(blocks) + 1, "tail") for part in (norm, head) for p in part.parameters()}
    for name, parameter in module.named_parameters():
        yield name, parameter, *homes[id(parameter)]
