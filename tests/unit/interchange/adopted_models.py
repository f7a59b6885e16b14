"""Tiny models as if another program had trained them."""

from collections.abc import Callable

import torch

from mypt_dist.checkpoint import Segment
from mypt_dist.interchange import Adopted, Origin
from mypt_dist.models import ModelConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.tokenizers import build_tokenizer

TINY = GPTConfig(vocab_size=300, context=8, n_layer=1, n_head=2, n_embd=8)


def segment(name: str, tensor: torch.Tensor) -> Segment:
    dtype = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}[tensor.dtype]
    flat = tensor.detach().contiguous().view(-1)
    data: Callable[[], memoryview] = lambda: flat.view(torch.uint8).numpy().data  # noqa: E731
    return Segment(name, tuple(tensor.shape), dtype, 0, flat.numel(), data)  # type: ignore[arg-type]


def adopted(config: ModelConfig = TINY, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Adopted:
    torch.manual_seed(seed)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1)
    return Adopted(
        model=config,
        tokenizer=build_tokenizer("byte"),
        tensors=[segment(f"model/{name}", p.to(dtype)) for name, p in model.named_parameters()],
        origin=Origin(program="test", generation="1", path="/there", files={"model.bin": f"{seed:064x}"}),
        step=7,
    )
