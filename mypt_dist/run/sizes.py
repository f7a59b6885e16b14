"""How large is a model with each tokenizer, and is that the right size for a budget? No torch, nothing is built."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mypt_dist.config import load_mapping, validate
from mypt_dist.data.manifest import DatasetManifest
from mypt_dist.errors import MyptError
from mypt_dist.models import ModelConfig
from mypt_dist.models.formula import PARTS, SYMBOLS, Formula
from mypt_dist.run.config import ModelFile
from mypt_dist.run.scaling import BESIROGLU, WORTH, Optimum, rule_of_flops, rule_of_tokens
from mypt_dist.tokenizers import Tokenizer, build_tokenizer


@dataclass(frozen=True, slots=True)
class Row:
    """A model with one tokenizer."""

    tokenizer: str
    ids: int
    formula: Formula


@dataclass(frozen=True, slots=True)
class Sizes:
    """What `mypt params` tells of a model."""

    name: str
    config: ModelConfig
    """With its vocabulary settled."""
    because: str
    """Where the number of rows comes from."""
    formula: Formula
    rows: tuple[Row, ...]

    @property
    def flops_per_token(self) -> int:
        """Of a training step, see `Formula.flops_per_token`."""
        return self.formula.flops_per_token(self.config.context)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        parts = self.formula.parts()
        return {
            "name": self.name,
            "model": self.config.model_dump(mode="json"),
            "vocabulary": self.because,
            "parameters": self.formula.parameters,
            "parts": {
                part: {
                    "parameters": parts[part],
                    "formula": self.formula.text(part),
                    "filled": self.formula.text(part, filled=True),
                }
                for part in PARTS
            },
            "symbols": {
                letter: {"is": SYMBOLS[letter], "value": value} for letter, value in self.formula.values.items()
            },
            "flops_per_token": {"training": self.flops_per_token, "forward": self.flops_per_token // 3},
            "tokenizers": [
                {
                    "tokenizer": row.tokenizer,
                    "ids": row.ids,
                    "rows": row.formula.values["V"],
                    "embedding": row.formula.parts()["embedding"] + row.formula.parts()["head"],
                    "parameters": row.formula.parameters,
                }
                for row in self.rows
            ],
        }


@dataclass(frozen=True, slots=True)
class Budget:
    """What there is to train with: one of both."""

    tokens: float | None = None
    flops: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What a budget is best spent on, and what a model makes of it."""

    rule: Optimum
    """20 tokens a parameter."""
    law: Optimum
    tokens: float
    """That the model itself can be trained on."""
    flops: float
    """Of that."""
    parameters: int

    @property
    def ratio(self) -> float:
        """Tokens a parameter of the model itself."""
        return self.tokens / self.parameters

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rule": {"parameters": self.rule.parameters, "tokens": self.rule.tokens, "flops": self.rule.flops},
            "law": {
                "parameters": self.law.parameters,
                "tokens": self.law.tokens,
                "flops": self.law.flops,
                "source": BESIROGLU.source,
            },
            "this_model": {"tokens": self.tokens, "flops": self.flops, "tokens_per_parameter": self.ratio},
            "worth": WORTH,
        }


def model_sizes(
    name: str | None,
    overrides: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    tokenizers: Mapping[str, Tokenizer] | None = None,
) -> Sizes:
    """Of a preset or run file, or of nothing but ``changes``, which are keys of the ``model`` section and win.

    ``tokenizers``: by name, besides ``gpt2`` and ``byte``. Raises `ConfigError`.
    """
    mapping = load_mapping(name, overrides) if name else {}
    where = name or "the model"
    section = {"type": "gpt", **mapping.get("model", {}), **(changes or {})}
    config = validate(ModelFile, {"model": section}, where).model
    ids, because = _vocabulary(config, mapping)
    settled = config.with_vocabulary(ids)
    known = {"gpt2": build_tokenizer("gpt2"), "byte": build_tokenizer("byte"), **(tokenizers or {})}
    rows = tuple(
        Row(
            called,
            tokenizer.vocab_size,
            config.model_copy(update={"vocab_size": None}).with_vocabulary(tokenizer.vocab_size).formula(),
        )
        for called, tokenizer in known.items()
    )
    return Sizes(Path(where).stem if name else config.type_name(), settled, because, settled.formula(), rows)


def advise(sizes: Sizes, budget: Budget) -> Advice:
    """What to spend a budget on."""
    parameters, each = sizes.formula.parameters, sizes.flops_per_token
    if budget.tokens is not None:
        tokens = budget.tokens
        return Advice(rule_of_tokens(tokens), BESIROGLU.of_tokens(tokens), tokens, tokens * each, parameters)
    assert budget.flops is not None, "a budget is of one of both"
    flops = budget.flops
    return Advice(rule_of_flops(flops), BESIROGLU.of_flops(flops), flops / each, flops, parameters)


def _vocabulary(config: ModelConfig, mapping: Mapping[str, Any]) -> tuple[int, str]:
    """How many ids the model is to have rows for, and who says so."""
    if config.vocab_size is not None:
        return config.vocab_size, "model.vocab_size"
    data = mapping.get("data")
    path = data.get("path") if isinstance(data, dict) else None
    # A dataset behind a URL, or one that is not there yet, is not asked.
    if isinstance(path, str) and "://" not in path:
        with suppress(MyptError):
            manifest = DatasetManifest.read(Path(path))
            return manifest.vocab_size, f"the {manifest.tokenizer.kind} tokenizer of {path}"
    about = mapping.get("about")
    if isinstance(about, dict) and isinstance(about.get("vocab_size"), int):
        return about["vocab_size"], "the preset's own count"
    return build_tokenizer("gpt2").vocab_size, "the gpt2 tokenizer, for want of another"
