"""Documents of a window: where their tokens stand, what they see, and with which kernel."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mypt_dist.models.layers import segments
from mypt_dist.models.layers.segments import (
    Backend,
    backend_for,
    masked_attention,
    segment_mask,
    segment_positions,
)

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
BACKENDS: list[Backend] = ["sdpa", "flex"]
CUDA = torch.device("cuda")

# More than one block of 128, and rows whose first blocks are of another document.
LENGTH = 300
IDS = torch.stack([torch.arange(LENGTH) // 140, (torch.arange(LENGTH) + 90) // 100])


@pytest.fixture(autouse=True, scope="module")
def _afresh() -> Iterator[None]:
    yield
    torch._dynamo.reset()


def heads(count: int) -> Tensor:
    return torch.randn(2, count, LENGTH, 8, generator=torch.Generator().manual_seed(count))


def test_positions_start_again_with_every_segment() -> None:
    ids = torch.tensor([[0, 0, 0, 1, 1, 2], [3, 4, 5, 5, 5, 5]])
    assert segment_positions(ids).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_token_sees_its_own_segment_up_to_itself(backend: Backend, kv_heads: int) -> None:
    q, k, v = heads(4), heads(kv_heads), heads(kv_heads) + 1
    found = masked_attention(q, k, v, segment_mask(IDS, backend), 0.0)
    k, v = (part.repeat_interleave(4 // kv_heads, dim=1) for part in (k, v))
    for row in range(2):
        for place in (0, 1, 9, 10, 139, 140, 299):
            seen = [other for other in range(place + 1) if IDS[row, other] == IDS[row, place]]
            weights = (q[row, :, place, None] @ k[row][:, seen].transpose(1, 2) / 8**0.5).softmax(-1)
            expected = (weights @ v[row][:, seen]).squeeze(1)
            torch.testing.assert_close(found[row, :, place], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_another_segment_holds_changes_not_one_bit(backend: Backend) -> None:
    mask, q, k, v = segment_mask(IDS, backend), heads(4), heads(2), heads(2) + 1
    before = masked_attention(q, k, v, mask, 0.0)
    changed = IDS[0] == 1
    for part in (q, k, v):
        part[0, :, changed] = part[0, :, changed] * 1e4 + 1e4
    after = masked_attention(q, k, v, mask, 0.0)
    same = (before == after).all(dim=-1).all(dim=1)
    assert same[1].all()
    assert torch.equal(same[0], ~changed)


@pytest.mark.parametrize(
    ("device", "triton", "head_dim", "dropout", "expected"),
    [
        ("cuda", True, 64, 0.0, "flex"),
        ("cuda", True, 16, 0.0, "flex"),
        ("cuda", True, 8, 0.0, "sdpa"),
        ("cuda", True, 64, 0.1, "sdpa"),
        ("cuda", False, 64, 0.0, "sdpa"),
        ("cpu", True, 64, 0.0, "sdpa"),
    ],
)
def test_flex_attention_is_used_where_it_is_fused(
    device: str, triton: bool, head_dim: int, dropout: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "find_spec", lambda name: object() if triton and name == "triton" else None)
    assert backend_for(torch.device(device), head_dim, dropout) == expected


def test_dropout_acts_on_masked_attention() -> None:
    torch.manual_seed(0)
    mask, ones = segment_mask(IDS, "sdpa"), torch.ones(2, 4, LENGTH, 8)
    mixed = masked_attention(ones, ones, ones, mask, 0.5)
    assert mixed.std() > 0.01
    torch.testing.assert_close(masked_attention(ones, ones, ones, mask, 0.0), ones)


COMPILED = """
import warnings, torch
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.layers import decoder
from mypt_dist.models.llama import LlamaConfig

warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
ids = torch.randint(61, (2, 40), generator=torch.Generator().manual_seed(0))
sizes = dict(vocab_size=61, context=40, n_layer=2, n_head=4, n_embd=64, activation_checkpointing=True)

def documents(length):
    return torch.arange(40).div(length, rounding_mode="floor").expand(2, 40)

def learned(model, length):
    model.zero_grad()
    model(ids, labels=ids, segment_ids=documents(length)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}

def seen(model, length):
    with torch.no_grad():
        return {"logits": model.eval()(ids, segment_ids=documents(length))}

def compiled(model):
    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend="aot_eager", fullgraph=True)

def compare(model, of):
    for number, length in enumerate((13, 7)):
        for name, tensor in of(model, length).items():
            torch.testing.assert_close(tensor, expected[length][name], rtol=1e-4, atol=1e-5)
        # Other documents must not be compiled anew.
        torch._dynamo.config.error_on_recompile = number == 0
    torch._dynamo.config.error_on_recompile = False

for config in (GPTConfig(**sizes), LlamaConfig(**sizes, n_kv_head=2)):
    torch.manual_seed(0)
    model = config.build()
    expected = {length: learned(model, length) for length in (13, 7)}
    compiled(model)
    compare(model, learned)

    expected = {length: seen(model, length) for length in (13, 7)}
    decoder.backend_for = lambda *_: "flex"
    compiled(model)
    compare(model, seen)
    decoder.backend_for = lambda *_: "sdpa"
"""


def test_compiled_and_recomputed_blocks_learn_the_same() -> None:
    """Without generating code, which takes minutes. Flex attention cannot learn on a CPU, so there it only looks."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMPILED], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention is fused on GPUs")
def test_the_fused_kernel_computes_and_learns_what_the_mask_says() -> None:
    ids = IDS.to(CUDA)
    results = []
    for backend in BACKENDS:
        q, k, v = (heads(count).repeat(1, 1, 1, 4).to(CUDA).requires_grad_() for count in (4, 2, 2))
        mixed = masked_attention(q, k, v, segment_mask(ids, backend), 0.0)
        mixed.square().sum().backward()
        results.append([mixed, q.grad, k.grad, v.grad])
    for flex, sdpa in zip(*results, strict=True):
        torch.testing.assert_close(flex, sdpa, atol=2e-3, rtol=2e-3)
