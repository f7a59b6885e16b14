"""Kernels that only a GPU has compute what a CPU computes."""

import pytest
import torch
from torch import Tensor

from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers.cross_entropy import cross_entropy_sum
from mypt_dist.models.layers.segments import masked_attention, segment_mask
from mypt_dist.models.llama import LlamaConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),
]

SHAPE = {"vocab_size": 331, "context": 128, "n_layer": 2, "n_head": 4, "n_embd": 128}


def segments(batch: int, length: int) -> Tensor:
    ends = torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) < 0.05
    return (ends.cumsum(1) - ends.long()).cuda()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_flex_attention_is_masked_attention(dtype: torch.dtype, tolerance: float, key_heads: int) -> None:
    torch.manual_seed(0)
    ids = segments(3, 256)
    q = torch.randn(3, 4, 256, 32, device="cuda", dtype=dtype)
    k, v = (torch.randn(3, key_heads, 256, 32, device="cuda", dtype=dtype) for _ in range(2))
    told = torch.randn_like(q)
    results = []
    for backend, kind in (("sdpa", torch.float64), ("flex", dtype)):
        parts = [part.to(kind).requires_grad_() for part in (q, k, v)]
        mixed = masked_attention(*parts, segment_mask(ids, backend), 0.0)  # type: ignore[arg-type]
        mixed.backward(told.to(kind))
        results.append([mixed, *(part.grad for part in parts)])
    for exact, found in zip(*results, strict=True):
        assert (found.double() - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("kind", [GPTConfig, LlamaConfig])
@pytest.mark.parametrize("packed", [False, True])
def test_a_model_computes_what_it_computes_on_a_cpu(kind: type, packed: bool) -> None:
    torch.manual_seed(0)
    model = kind(**SHAPE).build()
    ids = torch.randint(0, 331, (4, 128))
    marks = segments(4, 128) if packed else None
    results = []
    for place in ("cpu", "cuda"):
        model = model.to(place)
        model.zero_grad()
        loss = model(ids.to(place), labels=ids.to(place), segment_ids=None if marks is None else marks.to(place))
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for exact, found in zip(*results, strict=True):
        assert (found.cpu() - exact.cpu()).norm() <= 2e-3 * exact.cpu().norm()


def test_the_chunked_loss_takes_less_memory_and_is_the_loss() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(8192, 512, device="cuda", requires_grad=True)
    weight = (torch.randn(50304, 512, device="cuda") / 20).requires_grad_()
    labels = torch.randint(0, 50304, (8192,), device="cuda")
    labels[::3] = -100
    peaks, results = [], []
    for chunked in (True, False):
        hidden.grad = weight.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        if chunked:
            loss = cross_entropy_sum(hidden, weight, None, labels)
        else:
            loss = torch.nn.functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        results.append([loss.detach(), hidden.grad, weight.grad])
    for found, exact in zip(*results, strict=True):
        assert (found - exact).norm() < 1e-4 * exact.norm()
    assert peaks[0] < 0.5 * peaks[1]


def test_greedy_decoding_with_a_cache_is_that_of_a_cpu() -> None:
    torch.manual_seed(0)
    model = LlamaConfig(**SHAPE).build().eval()
    rows = []
    for place in ("cpu", "cuda"):
        model = model.to(place)
        cache = model.new_cache(1)
        ids, row = torch.tensor([[1, 2, 3]], device=place), []
        with torch.no_grad():
            for _ in range(60):
                ids = model(ids, cache)[:, -1:].argmax(-1)
                row.append(int(ids))
        rows.append(row)
    assert rows[0] == rows[1]
