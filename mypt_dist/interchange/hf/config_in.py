"""Which model of ours is described by a ``config.json``? What would compute something else is refused by its key.

Keys that are not looked at here are not looked at by that class of transformers either.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mypt_dist.errors import ConfigError
from mypt_dist.interchange.hf.forms import ACTIVATIONS
from mypt_dist.models import ModelConfig
from mypt_dist.models.gpt import GPTConfig
from mypt_dist.models.llama import LlamaConfig


class _Described:
    """``config.json``, and questions about it that end in a `ConfigError` with the key's name."""

    def __init__(self, entries: Mapping[str, Any], where: Path) -> None:
        self.entries, self.where = entries, where

    def get(self, key: str, default: Any = None) -> Any:
        """The value; the default also for null."""
        value = self.entries.get(key)
        return default if value is None else value

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.get(key, default)
        if type(value) is not int or value < 1:
            raise ConfigError(f"{self.where}: {key} must be a positive whole number, got {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float):
            raise ConfigError(f"{self.where}: {key} must be a number, got {value!r}")
        return float(value)

    def only(self, key: str, *allowed: Any, default: Any) -> Any:
        """The value, which must be one of ``allowed``."""
        value = self.get(key, default)
        if value not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise ConfigError(
                f"{self.where}: {key} is {value!r}, and no model here computes that (it must be {wanted})"
            )
        return value


def model_of(entries: Mapping[str, Any], where: Path) -> ModelConfig:
    """The model that ``entries``, the content of the file ``where``, describe. Raises `ConfigError`."""
    described = _Described(entries, where)
    kind = entries.get("model_type")
    build = _KINDS.get(str(kind))
    if build is None:
        raise ConfigError(f"{where}: model_type is {kind!r}; what can be read is {', '.join(_KINDS)}")
    if entries.get("quantization_config"):
        raise ConfigError(f"{where}: quantization_config: the weights are quantised; save them unquantised first")
    try:
        return build(described)
    except ValidationError as error:
        reasons = "; ".join(str(item["msg"]) for item in error.errors())
        raise ConfigError(f"{where}: the sizes fit no model here: {reasons}") from None


def _llama(described: _Described) -> ModelConfig:
    described.only("attention_bias", False, default=False)
    described.only("mlp_bias", False, default=False)
    return _rotary(described, qk_norm=False, head_dim=None)


def _qwen3(described: _Described) -> ModelConfig:
    described.only("attention_bias", False, default=False)
    described.only("use_sliding_window", False, default=False)
    layers = described.get("layer_types", [])
    if not isinstance(layers, list) or set(layers) - {"full_attention"}:
        raise ConfigError(f"{described.where}: layer_types {layers!r}: every layer must have full_attention")
    return _rotary(described, qk_norm=True, head_dim=128)


def _rotary(described: _Described, *, qk_norm: bool, head_dim: int | None) -> ModelConfig:
    described.only("hidden_act", "silu", "swish", default="silu")
    described.only("partial_rotary_factor", 1, default=1)
    theta, scale = _rope(described)
    width, heads = described.whole("hidden_size"), described.whole("num_attention_heads")
    head_width = described.whole("head_dim", head_dim or max(1, width // heads))
    return LlamaConfig(
        vocab_size=described.whole("vocab_size"),
        context=described.whole("max_position_embeddings"),
        n_layer=described.whole("num_hidden_layers"),
        n_head=heads,
        n_embd=width,
        n_kv_head=described.whole("num_key_value_heads", heads),
        head_dim=None if head_width * heads == width else head_width,
        mlp_hidden=described.whole("intermediate_size"),
        rope_theta=theta,
        rope_scale=scale,
        norm_eps=described.number("rms_norm_eps", 1e-6),
        qk_norm=qk_norm,
        tie_embeddings=described.only("tie_word_embeddings", True, False, default=False),
        dropout=described.number("attention_dropout", 0.0),
    )


def _rope(described: _Described) -> tuple[float, float]:
    """Base of the frequencies, and what divides positions: as version 5 of transformers spells them, or version 4."""
    given = described.get("rope_scaling") or described.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise ConfigError(f"{described.where}: rope_scaling must be an object or null, got {given!r}")
    inner = _Described({"rope_theta": described.get("rope_theta"), **given}, described.where)
    kind = inner.only("rope_type", "default", "linear", default=given.get("type", "default"))
    inner.only("partial_rotary_factor", 1, default=1)
    return inner.number("rope_theta", 10000.0), inner.number("factor", 1.0) if kind == "linear" else 1.0


def _gpt2(described: _Described) -> ModelConfig:
    width = described.whole("n_embd")
    described.only("n_inner", 4 * width, default=4 * width)
    described.only("layer_norm_epsilon", 1e-5, default=1e-5)
    described.only("scale_attn_weights", True, default=True)
    described.only("scale_attn_by_inverse_layer_idx", False, default=False)
    described.only("add_cross_attention", False, default=False)
    names = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
    activation = described.only("activation_function", *names, default="gelu_new")
    return GPTConfig(
        vocab_size=described.whole("vocab_size"),
        context=described.whole("n_positions"),
        n_layer=described.whole("n_layer"),
        n_head=described.whole("n_head"),
        n_embd=width,
        activation=names[activation],
        tie_embeddings=described.only("tie_word_embeddings", True, False, default=True),
        bias_qkv=True,
        bias_attention_out=True,
        bias_mlp=True,
        bias_norm=True,
        bias_head=False,
        dropout=described.number("attn_pdrop", 0.1),
    )


_KINDS: dict[str, Callable[[_Described], ModelConfig]] = {"llama": _llama, "qwen3": _qwen3, "gpt2": _gpt2}
