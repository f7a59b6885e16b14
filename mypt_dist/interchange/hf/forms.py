"""Which class of transformers computes what a model of ours computes, and where do its tensors lie in ours?

A form is read in both directions: an export writes its tensors out of ours, an import fills ours from them.
"""

from dataclasses import dataclass
from typing import Any

from mypt_dist.errors import ConfigError
from mypt_dist.models import ModelConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig


@dataclass(frozen=True, slots=True)
class Match:
    """A tensor of theirs, and the rows of one of ours that hold the same numbers."""

    theirs: str
    shape: tuple[int, ...]
    """Of theirs."""
    ours: str | None
    """Name without ``model/``. None: we have no such tensor, which is as one of zeros."""
    first_row: int = 0
    transposed: bool = False
    """Theirs is (in, out), as `Conv1D` of GPT-2 has it; ours is (out, in)."""


@dataclass(frozen=True, slots=True)
class Form:
    """A class of transformers, as a model of ours needs it."""

    architecture: str
    config: dict[str, Any]
    """What ``config.json`` says of the architecture."""
    matches: tuple[Match, ...]
    must_be_zero: tuple[str, ...] = ()
    """Tensors of ours that the class lacks: it fits where they hold nothing but zeros."""


def form_of(model: ModelConfig) -> Form:
    """The class that fits ``model``, whose vocabulary is settled. Raises `ConfigError` where none does."""
    if isinstance(model, LlamaConfig):
        return _llama(model)
    if isinstance(model, GPTConfig):
        return _gpt2(model)
    raise ConfigError(f"model.type {model.type_name()}: no class of transformers is known for it")


def rope_entries(theta: float, scale: float) -> dict[str, Any]:
    """Rotary positions as transformers 5 reads them, and as version 4 does."""
    kind: dict[str, Any] = {"rope_type": "default"} if scale == 1 else {"rope_type": "linear", "factor": scale}
    return {
        "rope_parameters": {**kind, "rope_theta": theta},
        "rope_theta": theta,
        "rope_scaling": None if scale == 1 else {**kind, "type": "linear"},
    }


def _llama(model: LlamaConfig) -> Form:
    """`LlamaForCausalLM`, or with norms of queries and keys `Qwen3ForCausalLM`."""
    if not model.qk_norm and model.n_embd % model.n_head:
        raise ConfigError(
            f"model.n_embd {model.n_embd} is no multiple of model.n_head {model.n_head}, which LlamaForCausalLM "
            "refuses, and no other class fits; with model.qk_norm it would be Qwen3ForCausalLM, which takes it"
        )
    config = {
        "model_type": "qwen3" if model.qk_norm else "llama",
        "vocab_size": model.rows,
        "hidden_size": model.n_embd,
        "intermediate_size": model.hidden,
        "num_hidden_layers": model.n_layer,
        "num_attention_heads": model.n_head,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": model.context,
        "rms_norm_eps": model.norm_eps,
        **rope_entries(model.rope_theta, model.rope_scale),
        "tie_word_embeddings": model.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": model.dropout,
        **({"use_sliding_window": False, "sliding_window": None} if model.qk_norm else {"mlp_bias": False}),
    }
    matches = [Match("model.embed_tokens.weight", (model.rows, model.n_embd), "embed.weight")]
    for layer in range(model.n_layer):
        matches += _llama_block(model, f"model.layers.{layer}", f"blocks.{layer}")
    matches.append(Match("model.norm.weight", (model.n_embd,), "norm.weight"))
    matches += _head(model.rows, model.n_embd, model.tie_embeddings)
    architecture = "Qwen3ForCausalLM" if model.qk_norm else "LlamaForCausalLM"
    return Form(architecture, config, tuple(matches), ("head.bias",) if model.bias_head else ())


def _llama_block(model: LlamaConfig, theirs: str, ours: str) -> list[Match]:
    width, queries, keys = model.n_embd, model.n_head * model.head_width, model.kv_heads * model.head_width
    attention, fused = f"{theirs}.self_attn", f"{ours}.attention.qkv.weight"
    norms = [
        Match(f"{attention}.{name}.weight", (model.head_width,), f"{ours}.attention.{name}.weight")
        for name in ("q_norm", "k_norm")
        if model.qk_norm
    ]
    return [
        Match(f"{theirs}.input_layernorm.weight", (width,), f"{ours}.norm_attention.weight"),
        Match(f"{attention}.q_proj.weight", (queries, width), fused),
        Match(f"{attention}.k_proj.weight", (keys, width), fused, first_row=queries),
        Match(f"{attention}.v_proj.weight", (keys, width), fused, first_row=queries + keys),
        *norms,
        Match(f"{attention}.o_proj.weight", (width, queries), f"{ours}.attention.out.weight"),
        Match(f"{theirs}.post_attention_layernorm.weight", (width,), f"{ours}.norm_mlp.weight"),
        Match(f"{theirs}.mlp.gate_proj.weight", (model.hidden, width), f"{ours}.mlp.gate.weight"),
        Match(f"{theirs}.mlp.up_proj.weight", (model.hidden, width), f"{ours}.mlp.up.weight"),
        Match(f"{theirs}.mlp.down_proj.weight", (width, model.hidden), f"{ours}.mlp.down.weight"),
    ]


ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu"}
"""Ours -> what transformers calls it."""


def _gpt2(model: GPTConfig) -> Form:
    """`GPT2LMHeadModel`, whose every projection and norm has a bias: where ours has none, theirs is zero."""
    width = model.n_embd
    config = {
        "model_type": "gpt2",
        "vocab_size": model.rows,
        "n_positions": model.context,
        "n_embd": width,
        "n_layer": model.n_layer,
        "n_head": model.n_head,
        "n_inner": None,
        "activation_function": ACTIVATIONS[model.activation],
        "layer_norm_epsilon": 1e-5,
        "attn_pdrop": model.dropout,
        "resid_pdrop": model.dropout,
        "embd_pdrop": 0.0,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": model.tie_embeddings,
    }
    matches = [
        Match("transformer.wte.weight", (model.rows, width), "embed.weight"),
        Match("transformer.wpe.weight", (model.context, width), "positions.weight"),
    ]
    for layer in range(model.n_layer):
        matches += _gpt2_block(model, f"transformer.h.{layer}", f"blocks.{layer}")
    matches += _norm("transformer.ln_f", "norm", width, biased=model.bias_norm)
    matches += _head(model.rows, width, model.tie_embeddings)
    return Form("GPT2LMHeadModel", config, tuple(matches), ("head.bias",) if model.bias_head else ())


def _gpt2_block(model: GPTConfig, theirs: str, ours: str) -> list[Match]:
    width = model.n_embd

    def conv(name: str, own: str, fan_in: int, fan_out: int, *, biased: bool) -> list[Match]:
        return [
            Match(f"{theirs}.{name}.weight", (fan_in, fan_out), f"{ours}.{own}.weight", transposed=True),
            Match(f"{theirs}.{name}.bias", (fan_out,), f"{ours}.{own}.bias" if biased else None),
        ]

    return [
        *_norm(f"{theirs}.ln_1", f"{ours}.norm_attention", width, biased=model.bias_norm),
        *conv("attn.c_attn", "attention.qkv", width, 3 * width, biased=model.bias_qkv),
        *conv("attn.c_proj", "attention.out", width, width, biased=model.bias_attention_out),
        *_norm(f"{theirs}.ln_2", f"{ours}.norm_mlp", width, biased=model.bias_norm),
        *conv("mlp.c_fc", "mlp.up", width, 4 * width, biased=model.bias_mlp),
        *conv("mlp.c_proj", "mlp.down", 4 * width, width, biased=model.bias_mlp),
    ]


def _norm(theirs: str, ours: str, width: int, *, biased: bool) -> list[Match]:
    return [
        Match(f"{theirs}.weight", (width,), f"{ours}.weight"),
        Match(f"{theirs}.bias", (width,), f"{ours}.bias" if biased else None),
    ]


def _head(rows: int, width: int, tied: bool) -> list[Match]:
    return [] if tied else [Match("lm_head.weight", (rows, width), "head.weight")]
