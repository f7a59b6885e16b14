"""Are these tensors the weights of this model, and the whole state of its optimizer? Asked before any is read."""

from collections.abc import Iterable, Mapping, Sequence

from mypt_dist.checkpoint import Segment
from mypt_dist.errors import CheckpointError
from mypt_dist.models import ModelConfig
from mypt_dist.optim import OptimizerConfig
from mypt_dist.optim.adamw import AdamWConfig

WEIGHT_TYPES = ("F32", "BF16", "F16")
"""What a model can be filled from without rounding."""
ADAMW_STATE = ("step", "exp_avg", "exp_avg_sq")
"""What torch's AdamW keeps of a parameter: a scalar, and two tensors of its shape."""
SHOWN = 5
"""Names of each kind in a message."""

Shape = tuple[int, ...]


def check_fits(model: ModelConfig, optimizer: OptimizerConfig | None, tensors: Sequence[Segment]) -> None:
    """Raise one `CheckpointError` that lists what is missing, too much, of another shape or of another type."""
    found: dict[str, tuple[Shape, str]] = {tensor.name: (tensor.shape, tensor.dtype) for tensor in tensors}
    moments = any(name.startswith("optimizer/") for name in found)
    wanted = expected(model, moments=moments)
    if moments and not isinstance(optimizer, AdamWConfig):
        raise CheckpointError("there is the state of an optimizer, and it is not said to be AdamW's")
    problems = [
        *_names("missing", wanted.keys() - found.keys()),
        *_names("not part of the model", found.keys() - wanted.keys()),
        *_names(
            "of another shape",
            (f"{name} {list(found[name][0])}, must be {list(wanted[name])}" for name in _both(wanted, found)),
        ),
        *_names("of a type that a model cannot be filled from", (f"{n} {t}" for n, (_, t) in _unfit(found))),
    ]
    if problems:
        raise CheckpointError("the tensors are not those of the model:\n" + "\n".join(problems))


def expected(model: ModelConfig, *, moments: bool = False) -> dict[str, Shape]:
    """Names and shapes of a checkpoint's tensors, the state of AdamW included if wanted."""
    import torch  # noqa: PLC0415 - a command looks at its arguments before it waits for torch

    with torch.device("meta"):
        module = model.build()
    parameters = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    shapes = {f"model/{name}": shape for name, shape in parameters.items()}
    if moments:
        shapes |= {
            f"optimizer/{key}/{name}": () if key == "step" else shape
            for name, shape in parameters.items()
            for key in ADAMW_STATE
        }
    return shapes


def _both(wanted: Mapping[str, Shape], found: Mapping[str, tuple[Shape, str]]) -> list[str]:
    return [name for name in wanted if name in found and found[name][0] != wanted[name]]


def _unfit(found: Mapping[str, tuple[Shape, str]]) -> list[tuple[str, tuple[Shape, str]]]:
    return [
        (name, (shape, dtype))
        for name, (shape, dtype) in found.items()
        if dtype not in (WEIGHT_TYPES if name.startswith("model/") else ("F32",))
    ]


def _names(what: str, names: Iterable[str]) -> list[str]:
    all_names = sorted(names)
    more = f" and {len(all_names) - SHOWN} more" if len(all_names) > SHOWN else ""
    return [f"  {what}: {', '.join(all_names[:SHOWN])}{more}"] if all_names else []
