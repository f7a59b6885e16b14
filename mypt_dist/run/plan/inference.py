"""What a model needs to generate: weights, the cache of keys and values, and the fullest moment of prompt and step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mypt_dist.errors import ConfigError
from mypt_dist.generation import filters
from mypt_dist.generation.sampling import SamplingConfig
from mypt_dist.launch import Topology
from mypt_dist.run.plan.allocations import Allocations
from mypt_dist.run.plan.passes import Peak, default_dtype, without_data
from mypt_dist.run.plan.process import cpu_generation, gpu_process

if TYPE_CHECKING:
    from mypt_dist.models import ModelConfig
    from mypt_dist.run.plan.forecast import Device


@dataclass(frozen=True, slots=True)
class Inference:
    """Bytes for a batch of rows that are ``tokens`` long in the end."""

    batch: int
    tokens: int
    """Of a row: its prompt and what is generated, at most the context."""
    half: bool
    """16-bit weights, and so cache and logits."""
    weights: int
    cache: int
    """Keys and values of every layer."""
    activations: int
    """The most that is alive besides: of the whole prompt at once, or of a step with its logits."""
    process: int
    """Bytes besides tensors."""

    @property
    def tensors(self) -> int:
        """The most bytes of tensors."""
        return self.weights + self.cache + self.activations

    @property
    def total(self) -> int:
        """Bytes of the GPU's memory, or of the process on a CPU."""
        return self.tensors + self.process


@dataclass(frozen=True, slots=True)
class Serving:
    """Where and in which type a model generates."""

    device: "Device" = "cpu"
    half: bool = False
    base: int = 0
    """CPU: resident bytes of a process that is about to load its model."""


def inference(config: "ModelConfig", batch: int, tokens: int, serving: Serving) -> Inference:
    """Follow the code that generates, on tensors without data: a prompt that fills the rows but for one token, a step.

    Raises `ConfigError` for rows longer than the context.
    """
    if not 1 <= tokens <= config.context:
        raise ConfigError(f"a row of {tokens} tokens does not fit: the model's context is {config.context}")
    element = 2 if serving.half else 4
    weights = config.formula().parameters * element
    cache = config.formula().cached_per_token * tokens * batch * element
    most = _most_alive(config, batch, tokens, serving)
    on_gpu = serving.device == "gpu"
    process = gpu_process(Topology(), weights + most) if on_gpu else cpu_generation(most - cache, serving.base)
    return Inference(batch, tokens, serving.half, weights, cache, most - cache, process)


def _most_alive(config: "ModelConfig", batch: int, tokens: int, serving: Serving) -> int:
    """The most bytes at once besides the weights."""
    dtype = torch.bfloat16 if serving.half else torch.float32
    peak = Peak()
    with without_data(gpu=serving.device == "gpu"), default_dtype(dtype), torch.no_grad():
        model = config.build().eval()
        prompt = torch.zeros((batch, tokens - 1), dtype=torch.int64)
        newest = torch.zeros((batch, 1), dtype=torch.int64)
        with Allocations([*model.parameters(), *model.buffers()], peak.observe):
            cache = model.new_cache(batch, tokens)
            if tokens > 1:
                model.hidden(prompt, cache)
            last = model.hidden(newest, cache)[:, -1]
            _pick(model.get_output_embeddings()(last).float(), config.rows)
    return peak.bytes


def _pick(logits: torch.Tensor, vocab_size: int) -> None:
    """What sampling with the usual settings does to the logits."""
    sampling = SamplingConfig()
    logits = filters.without_unused(logits, vocab_size)
    logits = filters.penalised(logits, [[0]] * len(logits), sampling.penalty)
    logits = filters.top_k(logits / sampling.temperature, sampling.top_k)
    uniforms = torch.zeros(len(logits), dtype=torch.float64)
    filters.drawn(filters.top_p(logits, sampling.top_p), uniforms)
