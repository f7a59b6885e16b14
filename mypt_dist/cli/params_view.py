"""A model's size as text: the formula, its parts, a row for each tokenizer, advice."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mypt_dist.cli.plan_view import bar
from mypt_dist.cli.tables import table_lines

if TYPE_CHECKING:
    from mypt_dist.run.sizes import Advice, Sizes


def sizes_lines(sizes: "Sizes") -> Iterator[str]:
    """The whole count, line by line."""
    from mypt_dist.models.formula import PARTS, SYMBOLS

    formula = sizes.formula
    total, parts = formula.parameters, formula.parts()
    yield f"{sizes.name} ({sizes.config.type_name()}): {total:,} parameters"
    yield f"  = {formula.text()}"
    yield f"  = {formula.text(filled=True)}"
    yield "  with " + ", ".join(f"{letter} {value:,} ({SYMBOLS[letter]})" for letter, value in formula.values.items())
    yield f"  V from {sizes.because}"
    yield ""
    rows = [
        [part, f"{parts[part]:,}", f"{parts[part] / total:.1%}", formula.text(part), bar(parts[part] / total, 20)]
        for part in PARTS
        if parts[part]
    ]
    yield from table_lines(["part", "parameters", "share", "formula", ""], rows)
    yield ""
    yield from _tokenizers(sizes)
    yield ""
    each = sizes.flops_per_token
    yield f"computation a token: {each:,} FLOPs in training, {each // 3:,} forward"
    yield f"  = 6·N + 12·L·H·Q·T, with N = {formula.matrix_weights:,} weights of matrix products"


def advice_lines(advice: "Advice") -> Iterator[str]:
    """What a budget is best spent on."""
    from mypt_dist.run.scaling import BESIROGLU, TOKENS_PER_PARAMETER, WORTH

    rows = [
        [name, short(best.parameters), short(best.tokens), f"{best.tokens / best.parameters:.1f}", f"{best.flops:.3g}"]
        for name, best in {
            f"{TOKENS_PER_PARAMETER} tokens a parameter": advice.rule,
            "law of Besiroglu et al.": advice.law,
        }.items()
    ]
    own = [short(advice.parameters), short(advice.tokens), f"{advice.ratio:.1f}", f"{advice.flops:.3g}"]
    yield from table_lines(
        ["for this budget", "parameters", "tokens", "tokens/parameter", "FLOPs"], [*rows, ["this model", *own]]
    )
    yield _verdict(advice, TOKENS_PER_PARAMETER)
    yield f"sources: Hoffmann et al., 2022, arXiv:2203.15556; {BESIROGLU.source}"
    yield f"worth: {WORTH}"


def short(number: float) -> str:
    """A large number in three digits and a letter: 124M."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= limit:
            return f"{number / limit:.3g}{letter}"
    return f"{number:.3g}"


def _tokenizers(sizes: "Sizes") -> Iterator[str]:
    rows = []
    for row in sizes.rows:
        parts, total = row.formula.parts(), row.formula.parameters
        embedding = parts["embedding"] + parts["head"]
        cells = [f"{row.ids:,}", f"{row.formula.values['V']:,}", f"{embedding:,}", f"{total:,}"]
        rows.append([row.tokenizer, *cells, f"{embedding / total:.1%}"])
    yield from table_lines(["with tokenizer", "ids", "rows V", "embedding, head", "parameters", "share"], rows)


def _verdict(advice: "Advice", wanted: int) -> str:
    if advice.ratio < wanted / 2:
        return "this model is large for the budget: a smaller one would reach a lower loss"
    if advice.ratio > wanted * 2:
        return (
            "this model is small for the budget: a larger one would reach a lower loss; a small one is cheaper to use"
        )
    return "this model is about the right size for the budget"
