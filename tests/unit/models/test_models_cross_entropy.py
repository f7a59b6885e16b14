"""The chunked loss against the plain one: the same numbers, without the logits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mypt_dist.data.batch import IGNORE
from mypt_dist.models.layers import cross_entropy
from mypt_dist.models.layers.cross_entropy import counted_cross_entropy, cross_entropy_sum
from mypt_dist.models.layers.head import Head

BATCH, LENGTH, WIDTH, VOCAB = 3, 20, 16, 37
CHUNKS = {"one chunk": 1 << 25, "seven chunks": 9 * VOCAB, "a chunk a token": 1}

Loss = Callable[[Tensor, Tensor, "Tensor | None", Tensor], Tensor]


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(exact.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")


def inputs(*, bias: bool = True, ignored: float = 0.4, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    torch.manual_seed(0)
    labels = torch.randint(VOCAB, (BATCH, LENGTH + 1))
    labels[torch.rand(labels.shape) < ignored] = IGNORE
    return {
        "hidden": torch.randn(BATCH, LENGTH, WIDTH, dtype=dtype, requires_grad=True),
        "weight": torch.randn(VOCAB, WIDTH, dtype=dtype, requires_grad=True),
        "bias": torch.randn(VOCAB, dtype=dtype, requires_grad=True) if bias else None,
        # As data has them: a view that leaves out the first column.
        "labels": labels[:, 1:],
    }


def learned(loss: Loss, given: dict[str, Any], scale: float = 1 / 7) -> dict[str, Tensor]:
    """The loss and all gradients, starting from none."""
    leaves = {name: tensor for name, tensor in given.items() if tensor is not None and tensor.requires_grad}
    for tensor in leaves.values():
        tensor.grad = None
    total = loss(**given)
    (total * scale).backward()
    return {"loss": total.detach(), **{name: tensor.grad.clone() for name, tensor in leaves.items()}}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest relative error, each gradient as a whole."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name].double() - expected[name].double()).norm() / expected[name].double().norm())
        for name in expected
    )


@pytest.fixture(params=CHUNKS)
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", CHUNKS[request.param])


@pytest.fixture(params=["host", "accelerator"])
def _place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to leave out what is ignored, whatever the device."""
    monkeypatch.setattr(cross_entropy, "_on_host", lambda labels: request.param == "host")


@pytest.mark.usefixtures("_chunks", "_place")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 0.97])
def test_loss_and_gradients_are_those_of_the_plain_loss(bias: bool, ignored: float) -> None:
    given = inputs(bias=bias, ignored=ignored)
    assert (given["labels"] != IGNORE).any()
    assert not given["labels"].is_contiguous()
    assert distance(learned(cross_entropy_sum, given), learned(plain, given)) < 1e-6


@pytest.mark.usefixtures("_chunks", "_place")
def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((2, 4, 3), (5, 3), (5,))]
    labels = torch.tensor([[1, IGNORE, 4, 0], [1, 2, 2, IGNORE]])
    assert cross_entropy_sum(*leaves, labels).dtype == torch.float64
    torch.autograd.gradcheck(lambda *leaves: cross_entropy_sum(*leaves, labels), leaves)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)], ids=str)
def test_under_autocast_the_loss_is_exact_and_gradients_are_as_near_as_products(
    dtype: torch.dtype, tolerance: float
) -> None:
    given = inputs()
    exact = learned(plain, given)
    with torch.autocast("cpu", dtype):
        found, expected = learned(cross_entropy_sum, given), learned(plain, given)
    assert found["loss"].dtype == torch.float32
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-6)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert distance(found, exact) < tolerance


@pytest.mark.usefixtures("_chunks")
def test_weights_in_16_bits_get_gradients_in_16_bits() -> None:
    given = inputs(dtype=torch.bfloat16)
    exact = learned(
        plain, {n: t if t.dtype == torch.int64 else t.detach().float().requires_grad_() for n, t in given.items()}
    )
    found = learned(cross_entropy_sum, given)
    assert found.pop("loss").dtype == torch.float32
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    del exact["loss"]
    assert distance(found, exact) < 0.01


def test_gradients_of_many_chunks_are_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 1)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    # Each token adds 1/2 to the gradient: in bf16 the sum would stop growing at 128.
    cross_entropy_sum(torch.ones(1000, 1, dtype=torch.bfloat16), weight, None, torch.zeros(1000).long()).backward()
    assert weight.grad is not None
    assert weight.grad[1].item() == 500


@pytest.mark.usefixtures("_place")
def test_without_anything_to_learn_the_loss_and_all_gradients_are_zero() -> None:
    given = inputs(ignored=1.0)
    found = learned(cross_entropy_sum, given)
    assert found.keys() == {"loss", "hidden", "weight", "bias"}
    assert all(not tensor.any() for tensor in found.values())


def test_gradients_accumulate_over_calls_and_walks() -> None:
    given = inputs()
    once = learned(cross_entropy_sum, given)
    cross_entropy_sum(**given).div(7).backward()
    twice = {name: given[name].grad.clone() for name in ("hidden", "weight", "bias")}
    assert all(torch.equal(twice[name], 2 * once[name]) for name in twice)
    loss = cross_entropy_sum(**given) / 7
    walks = [torch.autograd.grad(loss, given["weight"], retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(walks[0], walks[1])
    assert torch.equal(walks[0], once["weight"])


def test_it_is_differentiated_once() -> None:
    given = inputs()
    scaled = cross_entropy_sum(**given) * given["weight"].sum()
    (gradient,) = torch.autograd.grad(scaled, given["hidden"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class Watch(TorchDispatchMode):
    """Which products are computed, and the size of the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[int, ...]] = []
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
            if "mm" in str(func) or "linear" in str(func):
                self.products.append(tuple(result.shape))
        return result


def watched(loss: Loss, given: dict[str, Any]) -> Watch:
    with Watch() as watch:
        total = loss(**given)
        if total.requires_grad:
            total.backward()
    return watch


@pytest.mark.usefixtures("_place")
def test_nothing_is_ever_as_large_as_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 10 * VOCAB)
    given = inputs(ignored=0.0)
    assert watched(cross_entropy_sum, given).largest == BATCH * LENGTH * WIDTH
    assert watched(plain, given).largest == BATCH * LENGTH * VOCAB, "the watch sees what it looks for"


@pytest.mark.parametrize(
    ("frozen", "products"),
    [
        ((), [(BATCH * LENGTH, VOCAB), (BATCH * LENGTH, WIDTH), (VOCAB, WIDTH), (VOCAB, 1)]),
        (("weight", "bias"), [(BATCH * LENGTH, VOCAB), (BATCH * LENGTH, WIDTH)]),
        (("hidden",), [(BATCH * LENGTH, VOCAB), (VOCAB, WIDTH), (VOCAB, 1)]),
        (("hidden", "weight", "bias"), [(BATCH * LENGTH, VOCAB)]),
    ],
    ids=str,
)
def test_no_gradient_is_computed_that_nobody_needs(frozen: tuple[str, ...], products: list[tuple[int, ...]]) -> None:
    given = inputs(ignored=0.0)
    for name in frozen:
        given[name].requires_grad_(False)
    assert watched(cross_entropy_sum, given).products == products


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_evaluation_computes_no_gradients(mode: Any) -> None:
    given = inputs(ignored=0.0)
    expected = cross_entropy_sum(**given)
    with mode():
        assert watched(cross_entropy_sum, given).products == [(BATCH * LENGTH, VOCAB)]
        assert torch.equal(cross_entropy_sum(**given), expected)


def test_what_is_ignored_costs_nothing_on_a_host() -> None:
    given = inputs(ignored=0.9)
    count = int((given["labels"] != IGNORE).sum())
    assert watched(cross_entropy_sum, given).products[0] == (count, VOCAB)


def test_it_runs_without_data() -> None:
    with FakeTensorMode():
        given = inputs()
        found = learned(cross_entropy_sum, given)
    assert found["loss"].shape == ()
    assert found["weight"].shape == (VOCAB, WIDTH)


@pytest.mark.parametrize("label", [VOCAB, -1])
@pytest.mark.usefixtures("_place")
def test_a_label_outside_of_the_vocabulary_is_refused(label: int) -> None:
    given = inputs()
    given["labels"][0, 0] = label
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        cross_entropy_sum(**given)


def test_labels_must_fit() -> None:
    given = inputs()
    with pytest.raises(ValueError, match=r"\(3, 19\) do not fit hidden states \(3, 20, 16\)"):
        cross_entropy_sum(**{**given, "labels": given["labels"][:, 1:]})


def test_the_head_says_logits_or_their_loss() -> None:
    given = inputs()
    head = Head(WIDTH, VOCAB, bias=True)
    assert torch.equal(head(given["hidden"]), F.linear(given["hidden"], head.weight, head.bias))
    loss = head(given["hidden"], given["labels"])
    torch.testing.assert_close(loss, plain(given["hidden"], head.weight, head.bias, given["labels"]))
    assert list(head.state_dict()) == ["weight", "bias"]


def test_data_and_loss_agree_on_what_is_ignored() -> None:
    assert cross_entropy.IGNORE == IGNORE


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("autocast", [False, True])
def test_counting_gives_the_loss_and_the_likeliest_tokens(
    size: int, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", size)
    given = inputs()
    # Some labels that are right, which random ones are not.
    best = F.linear(given["hidden"], given["weight"], given["bias"]).argmax(-1)
    labels = torch.where(torch.arange(LENGTH) % 3 == 0, best, given["labels"]).where(given["labels"] != IGNORE, IGNORE)
    given = {**given, "labels": labels}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        nats, right = counted_cross_entropy(**given).tolist()
        expected = float(cross_entropy_sum(**given).detach())
        likeliest = F.linear(given["hidden"], given["weight"], given["bias"]).argmax(-1)
    assert nats == pytest.approx(expected, rel=1e-5)
    assert right == int((likeliest == labels).sum()) > 10
    assert counted_cross_entropy(**{**given, "labels": torch.full_like(labels, IGNORE)}).tolist() == [0, 0]


@pytest.mark.parametrize("counts", [cross_entropy_sum, counted_cross_entropy])
def test_weights_may_come_as_the_bits_of_integers(counts: Callable[..., Tensor]) -> None:
    """As they do through engines that round floating-point arguments."""
    given = inputs()
    weights = torch.rand(given["labels"].shape, generator=torch.Generator().manual_seed(3))
    found = counts(**given, label_weights=weights.view(torch.int32))
    assert torch.equal(found, counts(**given, label_weights=weights))
    assert not torch.equal(found, counts(**given))
