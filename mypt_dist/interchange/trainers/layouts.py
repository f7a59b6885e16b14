"""Which of their tensors are which of ours? A table for each way in which MyPT and nanoGPT have named them."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mypt_dist.config import validate
from mypt_dist.errors import CheckpointError, ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig

CLASSIC, FUSED, NANOGPT = "2025-12", "2026-03", "nanogpt"

COMPILED = "_orig_mod."
"""What torch.compile puts before every name."""
_KINDS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Layout:
    """A model of theirs, as one of ours."""

    model: ModelConfig
    parts: Mapping[str, tuple[str, ...]]
    """Our parameter -> theirs, whose rows follow each other in ours."""
    order: tuple[str, ...]
    """Their parameters in the order in which their optimizers count them."""
    ignored: frozenset[str]
    """Names that are no parameters: masks, and the second name of a tied weight."""
    tied: tuple[str, str] | None = None
    """The embedding and the head, which are one."""
    notes: tuple[str, ...] = ()


def generation_of(names: Collection[str], where: str) -> str:
    """Which of the layouts these names are of. Raises `CheckpointError` for none."""
    signs = {
        "blocks.0.sa.heads.0.key.weight": CLASSIC,
        "blocks.0.sa.qkv.weight": FUSED,
        "transformer.h.0.attn.c_attn.weight": NANOGPT,
    }
    for name, generation in signs.items():
        if name in names:
            return generation
    shown = ", ".join(sorted(names)[:3]) or "nothing"
    raise CheckpointError(
        f"{where} is of no model of MyPT or nanoGPT: it holds {shown}, but none of {', '.join(signs)}"
    )


def layout_of(generation: str, settings: Mapping[str, Any], names: Collection[str], where: str) -> Layout:
    """The layout of a model with these settings and tensors.

    Raises `ConfigError` for settings that are missing, wrong, or of a model that there is none of here, and
    `CheckpointError` where the tensors are of another number of layers or heads.
    """
    makers: dict[str, Callable[[_Names], Layout]] = {CLASSIC: _classic, FUSED: _fused, NANOGPT: _nanogpt}
    return makers[generation](_Names(settings, frozenset(names), where))


@dataclass(frozen=True, slots=True)
class _Names:
    """Settings and names of one checkpoint."""

    settings: Mapping[str, Any]
    names: frozenset[str]
    where: str

    def sizes(self) -> dict[str, Any]:
        """What all models have, in our words."""
        theirs = ("vocab_size", "block_size", "n_layer", "n_head", "n_embd")
        if missing := [key for key in theirs if key not in self.settings]:
            raise ConfigError(f"{self.where}: its settings lack {', '.join(missing)}")
        sizes = {key: self.settings[key] for key in theirs if key != "block_size"}
        return {**sizes, "context": self.settings["block_size"], "dropout": self.settings.get("dropout") or 0.0}

    def config(self, kind: type[ModelConfig], **more: Any) -> Any:
        """Raises `ConfigError` naming every setting that is wrong."""
        return validate(kind, {**self.sizes(), **more}, f"the model of {self.where}")

    def has(self, name: str) -> bool:
        return name in self.names

    def expect(self, pattern: str, number: int, key: str) -> None:
        """Raise `CheckpointError` unless the numbers in names that fit ``pattern`` are 0 … ``number`` - 1."""
        found = {int(match[1]) for name in self.names if (match := re.match(pattern, name))}
        # Compared by size first: what a file says of itself must not be counted up to.
        if len(found) != number or max(found) != number - 1:
            raise CheckpointError(f"{self.where}: its settings say {key} {number:,}, its tensors are of {len(found):,}")

    def layout(
        self, model: ModelConfig, ours: Mapping[str, Iterable[str]], order: Iterable[str], **more: Any
    ) -> Layout:
        """The layout of modules: ``ours`` -> theirs; weight and bias of each, where there is one."""
        parts = {
            f"{module}.{kind}": tuple(f"{each}.{kind}" for each in theirs)
            for module, theirs in ((module, tuple(theirs)) for module, theirs in ours.items())
            for kind in _KINDS
            if kind == "weight" or any(self.has(f"{each}.{kind}") for each in theirs)
        }
        counted = tuple(f"{m}.{kind}" for m in order for kind in _KINDS if self.has(f"{m}.{kind}"))
        return Layout(model, parts, counted, **more)


def _classic(found: _Names) -> Layout:
    """MyPT, 2025-12: a module for each head."""
    model: GPTConfig = found.config(
        GPTConfig,
        activation="relu",
        tie_embeddings=False,
        bias_qkv=found.has("blocks.0.sa.heads.0.key.bias"),
    )
    found.expect(r"blocks\.(\d+)\.", model.n_layer, "n_layer")
    found.expect(r"blocks\.0\.sa\.heads\.(\d+)\.", model.n_head, "n_head")
    if model.n_layer * model.n_head > len(found.names):
        raise CheckpointError(f"{found.where} has {len(found.names):,} tensors, too few for its settings")
    ours = {"embed": ["token_embedding_table"], "positions": ["position_embedding_table"]}
    order = ["token_embedding_table", "position_embedding_table"]
    masks = []
    for i in range(model.n_layer):
        heads = [f"blocks.{i}.sa.heads.{h}" for h in range(model.n_head)]
        ours[f"blocks.{i}.attention.qkv"] = [f"{h}.{what}" for what in ("query", "key", "value") for h in heads]
        ours |= _mypt_block(i, {"up": "net.0", "down": "net.2"})
        order += [f"{h}.{what}" for h in heads for what in ("key", "query", "value")]
        order += [f"blocks.{i}.{rest}" for rest in ("sa.proj", "fwd.net.0", "fwd.net.2", "ln1", "ln2")]
        masks += [f"{h}.tril" for h in heads]
    ours |= {"norm": ["ln_f"], "head": ["lm_head"]}
    return found.layout(model, ours, [*order, "ln_f", "lm_head"], ignored=frozenset(masks))


def _fused(found: _Names) -> Layout:
    """MyPT, 2026-03: fused projections, and switches for what the model is made of."""
    learned = found.settings.get("pos_encoding", "learned") == "learned"
    model, mlp = _by_switches(found)
    found.expect(r"blocks\.(\d+)\.", model.n_layer, "n_layer")
    embeddings = ["token_embedding_table", *(["position_embedding_table"] if learned else [])]
    ours = dict(zip(("embed", "positions"), ([name] for name in embeddings), strict=False))
    order = list(embeddings)
    for i in range(model.n_layer):
        ours[f"blocks.{i}.attention.qkv"] = [f"blocks.{i}.sa.qkv"]
        ours |= _mypt_block(i, mlp)
        order += [f"blocks.{i}.sa.qkv", f"blocks.{i}.sa.proj"]
        order += [*(f"blocks.{i}.fwd.{theirs}" for theirs in mlp.values()), f"blocks.{i}.ln1", f"blocks.{i}.ln2"]
    ours |= {"norm": ["ln_f"], "head": ["lm_head"]}
    return _tied(
        found, found.layout(model, ours, [*order, "ln_f", "lm_head"], ignored=frozenset()), "token_embedding_table"
    )


def _by_switches(found: _Names) -> tuple[GPTConfig | LlamaConfig, dict[str, str]]:
    """The model, and the modules of its MLP: ours -> theirs."""
    defaults = {"pos_encoding": "learned", "mlp_type": "gelu", "norm_type": "layernorm"}
    switches = tuple(found.settings.get(key, default) for key, default in defaults.items())
    tied = found.settings.get("tie_weights", False)
    match switches:
        case ("learned", "gelu", "layernorm"):
            gpt: GPTConfig = found.config(
                GPTConfig,
                activation="gelu",
                tie_embeddings=tied,
                bias_qkv=found.has("blocks.0.sa.qkv.bias"),
                bias_attention_out=found.has("blocks.0.sa.proj.bias"),
                bias_mlp=found.has("blocks.0.fwd.net.0.bias"),
                bias_norm=found.has("ln_f.bias"),
                bias_head=found.has("lm_head.bias"),
            )
            return gpt, {"up": "net.0", "down": "net.2"}
        case ("rope", "swiglu", "rmsnorm"):
            turns = {key: found.settings[key] for key in ("rope_theta", "rope_scale") if key in found.settings}
            llama: LlamaConfig = found.config(
                LlamaConfig, tie_embeddings=tied, bias_head=found.has("lm_head.bias"), **turns
            )
            return llama, {"gate": "w_gate", "up": "w_up", "down": "w_down"}
    said = ", ".join(f"{key} {value!r}" for key, value in zip(defaults, switches, strict=True))
    raise ConfigError(
        f"{found.where}: there is no model of {said} here; there are learned positions with gelu and layernorm, and "
        "rope with swiglu and rmsnorm"
    )


def _mypt_block(i: int, mlp: Mapping[str, str]) -> dict[str, list[str]]:
    """What both generations call alike, but for the MLP."""
    return {
        f"blocks.{i}.attention.out": [f"blocks.{i}.sa.proj"],
        **{f"blocks.{i}.mlp.{ours}": [f"blocks.{i}.fwd.{theirs}"] for ours, theirs in mlp.items()},
        f"blocks.{i}.norm_attention": [f"blocks.{i}.ln1"],
        f"blocks.{i}.norm_mlp": [f"blocks.{i}.ln2"],
    }


def _nanogpt(found: _Names) -> Layout:
    """nanoGPT: its head is its embedding; every bias or none."""
    bias = found.has("transformer.ln_f.bias")
    model: GPTConfig = found.config(
        GPTConfig,
        activation="gelu",
        tie_embeddings=True,
        bias_qkv=bias,
        bias_attention_out=bias,
        bias_mlp=bias,
        bias_norm=bias,
        bias_head=False,
    )
    found.expect(r"transformer\.h\.(\d+)\.", model.n_layer, "n_layer")
    modules = {
        "norm_attention": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "norm_mlp": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    ours = {"embed": ["transformer.wte"], "positions": ["transformer.wpe"]}
    for i in range(model.n_layer):
        ours |= {f"blocks.{i}.{mine}": [f"transformer.h.{i}.{theirs}"] for mine, theirs in modules.items()}
    ours["norm"] = ["transformer.ln_f"]
    order = [theirs for (theirs,) in ours.values()]
    masks = frozenset(f"transformer.h.{i}.attn.bias" for i in range(model.n_layer))
    notes = [
        "the activation is taken to be exact GELU, as nanoGPT has it; its first versions had the tanh approximation"
    ]
    if model.dropout:
        notes.append("dropout after the sum of the embeddings, which nanoGPT has, is left out")
    ours["head"] = ["lm_head"]
    layout = found.layout(model, ours, order, ignored=masks, notes=tuple(notes))
    return _tied(found, layout, "transformer.wte")


def _tied(found: _Names, layout: Layout, embedding: str) -> Layout:
    """Where the head's weight is the embedding's, it is one parameter, under the first name."""
    if not getattr(layout.model, "tie_embeddings", False):
        return layout
    head = "lm_head.weight"
    return Layout(
        model=layout.model,
        parts={ours: theirs for ours, theirs in layout.parts.items() if ours != "head.weight"},
        order=tuple(name for name in layout.order if name != head),
        ignored=layout.ignored | {head},
        tied=(f"{embedding}.weight", head) if found.has(head) else None,
        notes=layout.notes,
    )
