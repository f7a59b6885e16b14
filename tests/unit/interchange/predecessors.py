"""Models of MyPT, in both of its generations, and of nanoGPT, as their own programs define and save them.

Written from a description of their formats; that they are right is shown by two checkpoints that MyPT itself wrote, in
tests/fixtures/mypt.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHARACTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
SIZES = {"vocab_size": 26, "block_size": 8, "n_embd": 12, "n_head": 3, "n_layer": 2, "dropout": 0.0}
TRAINING = {"max_iters": 3, "learning_rate": 1e-2}
STEPS = 3


class Head(nn.Module):
    def __init__(self, width: int, size: int, block: int, bias: bool) -> None:
        super().__init__()
        self.key = nn.Linear(width, size, bias=bias)
        self.query = nn.Linear(width, size, bias=bias)
        self.value = nn.Linear(width, size, bias=bias)
        self.register_buffer("tril", torch.tril(torch.ones(block, block)))

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[1], self.key.out_features
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * width**-0.5
        scores = scores.masked_fill(self.tril[:length, :length] == 0, float("-inf"))
        return scores.softmax(-1) @ self.value(x)


class Heads(nn.Module):
    def __init__(self, width: int, heads: int, block: int, bias: bool) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(width, width // heads, block, bias) for _ in range(heads))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, turn: bool = False) -> Tensor:
    batch, length, width = q.shape
    q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in (q, k, v))
    if turn:
        q, k = rotated(q), rotated(k)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    mask = torch.tril(torch.ones(length, length, dtype=torch.bool))
    return (scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)


def rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], -1)


class Fused(nn.Module):
    def __init__(self, width: int, heads: int, turn: bool) -> None:
        super().__init__()
        self._heads, self._turn = heads, turn
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(*self.qkv(x).chunk(3, dim=-1), self._heads, self._turn))


class Feed(nn.Module):
    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 4 * width), activation, nn.Linear(4 * width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-int(8 * width / 3) // 64) * 64
        self.w_gate = nn.Linear(width, hidden, bias=False)
        self.w_up = nn.Linear(width, hidden, bias=False)
        self.w_down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_down(F.silu(self.w_gate(x)) * self.w_up(x))


class Block(nn.Module):
    def __init__(self, attention: nn.Module, feed: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.sa, self.fwd = attention, feed
        self.ln1, self.ln2 = norm(), norm()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.sa(self.ln1(x))
        return x + self.fwd(self.ln2(x))


class MyPT(nn.Module):
    """``kind``: ``heads`` is the model of 2025-12, ``classic`` and ``modern`` are those of 2026-03."""

    def __init__(self, config: dict[str, Any], kind: str) -> None:
        super().__init__()
        width, heads, block = config["n_embd"], config["n_head"], config["block_size"]
        modern = kind == "modern"
        norm: Callable[[], nn.Module] = lambda: nn.RMSNorm(width, 1e-6) if modern else nn.LayerNorm(width)  # noqa: E731
        self.token_embedding_table = nn.Embedding(config["vocab_size"], width)
        if not modern:
            self.position_embedding_table = nn.Embedding(block, width)
        attention: Callable[[], nn.Module] = (
            (lambda: Heads(width, heads, block, config["bias"]))
            if kind == "heads"
            else (lambda: Fused(width, heads, turn=modern))
        )
        feed: Callable[[], nn.Module] = (
            (lambda: Gated(width)) if modern else lambda: Feed(width, nn.ReLU() if kind == "heads" else nn.GELU())
        )
        self.blocks = nn.Sequential(*(Block(attention(), feed(), norm) for _ in range(config["n_layer"])))
        self.ln_f = norm()
        self.lm_head = nn.Linear(width, config["vocab_size"])
        if config.get("tie_weights"):
            self.lm_head.weight = self.token_embedding_table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embedding_table(ids)
        if hasattr(self, "position_embedding_table"):
            x = x + self.position_embedding_table(torch.arange(ids.shape[1]))
        return self.lm_head(self.ln_f(self.blocks(x)))


class Norm(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class NanoAttention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self._heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(attend(*self.c_attn(x).chunk(3, dim=-1), self._heads))


class NanoBlock(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.ln_1 = Norm(width, bias)
        self.attn = NanoAttention(width, heads, bias)
        self.ln_2 = Norm(width, bias)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width, bias=bias), "c_proj": nn.Linear(4 * width, width, bias=bias)}
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class NanoGPT(nn.Module):
    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, bias = config["n_embd"], config["bias"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config["vocab_size"], width),
                "wpe": nn.Embedding(config["block_size"], width),
                "h": nn.ModuleList(NanoBlock(width, config["n_head"], bias) for _ in range(config["n_layer"])),
                "ln_f": Norm(width, bias),
            }
        )
        self.lm_head = nn.Linear(width, config["vocab_size"], bias=False)
        self.transformer["wte"].weight = self.lm_head.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"](torch.arange(ids.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


@dataclass
class Theirs:
    """A model as its own program holds it, after some steps."""

    kind: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: dict[str, Any]
    steps: int = STEPS
    dtype: torch.dtype = torch.float32
    characters: list[str] | None = field(default_factory=lambda: list(CHARACTERS))

    def state(self) -> dict[str, Any]:
        prefix = "_orig_mod." if self.kind == "nanogpt" else ""
        return {f"{prefix}{name}": tensor.to(self.dtype) for name, tensor in self.model.state_dict().items()}

    def tokenizer(self) -> dict[str, Any]:
        gpt2 = self.characters is None
        base = 50257 if gpt2 else None
        return {"token_kind": "gpt2" if gpt2 else "char", "chars": self.characters, "base_vocab_size": base}

    def step(self) -> None:
        ids, targets = batch(self.config, self.steps)
        loss = F.cross_entropy(self.model(ids).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1


def batch(config: dict[str, Any], step: int) -> tuple[Tensor, Tensor]:
    """Ids and targets of a step."""
    windows = torch.randint(
        config["vocab_size"], (4, config["block_size"] + 1), generator=torch.Generator().manual_seed(step)
    )
    return windows[:, :-1], windows[:, 1:]


def trained(kind: str, **config: Any) -> Theirs:
    """A model of ``kind``: ``heads``, ``classic``, ``modern`` or ``nanogpt``, that has moments."""
    torch.manual_seed(len(kind))
    switches = {
        "modern": {"tie_weights": True, "pos_encoding": "rope", "mlp_type": "swiglu", "norm_type": "rmsnorm"},
        "classic": {"tie_weights": False, "pos_encoding": "learned", "mlp_type": "gelu", "norm_type": "layernorm"},
    }
    whole = {**SIZES, "batch_size": 4, "bias": False, **switches.get(kind, {}), **config}
    model: nn.Module = NanoGPT(whole) if kind == "nanogpt" else MyPT(whole, kind)
    parameters = list(model.parameters())
    groups: Any = parameters
    if kind == "nanogpt":
        wide, narrow = [p for p in parameters if p.dim() >= 2], [p for p in parameters if p.dim() < 2]
        groups = [{"params": wide, "weight_decay": 0.1}, {"params": narrow, "weight_decay": 0.0}]
    betas = (0.9, 0.95) if kind == "nanogpt" else (0.9, 0.999)
    theirs = Theirs(kind, model, torch.optim.AdamW(groups, lr=1e-2, betas=betas), whole, steps=0)
    for _ in range(STEPS):
        theirs.step()
    return theirs


def save_bundle(theirs: Theirs, folder: Path, *, wrapped: bool = False, optimizer: bool = True) -> Path:
    folder.mkdir(parents=True)
    state: dict[str, Any] = theirs.state()
    if wrapped:
        state = {"state_dict": state, "checkpoint_dtype": None, "model_dtype": "float32"}
    torch.save(state, folder / "model.pt")
    described: dict[str, Any] = {"step": theirs.steps, "training_config": TRAINING, "model_dtype_at_save": "float32"}
    if optimizer:
        torch.save(theirs.optimizer.state_dict(), folder / "optimizer.pt")
        described["optimizer_file"] = "optimizer.pt"
    for name, content in (
        ("config.json", theirs.config),
        ("tokenizer.json", theirs.tokenizer()),
        ("training_state.json", described),
    ):
        (folder / name).write_text(json.dumps(content))
    return folder


def save_single(theirs: Theirs, path: Path) -> Path:
    """MyPT's one file, or nanoGPT's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if theirs.kind == "nanogpt":
        content = {
            "model": theirs.state(),
            "optimizer": theirs.optimizer.state_dict(),
            "model_args": {key: theirs.config[key] for key in (*SIZES, "bias")},
            "iter_num": theirs.steps,
            "best_val_loss": torch.tensor(1e9),
            "config": {"learning_rate": 1e-2, "batch_size": 4, "gradient_accumulation_steps": 2, "dataset": "words"},
        }
    else:
        content = {
            "model_state_dict": theirs.state(),
            "config": theirs.config,
            "tokenizer": {"token_kind": "char", "chars": theirs.characters},
            "step": theirs.steps,
            "optimizer_state_dict": theirs.optimizer.state_dict(),
        }
    torch.save(content, path)
    return path
