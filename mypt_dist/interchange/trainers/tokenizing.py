"""With which tokenizer was this model trained? Named by the checkpoint or by the user, never guessed."""

from pathlib import Path

from mypt_dist.data.foreign.dataset import Chosen
from mypt_dist.data.foreign.mypt_metadata import tokenizer_of_state
from mypt_dist.data.foreign.tokenizer import GPT2_END, named_tokenizer, plain
from mypt_dist.errors import ConfigError
from mypt_dist.interchange.trainers.sources import Foreign
from mypt_dist.tokenizers import END_OF_TEXT, Gpt2Tokenizer, Tokenizer, build_tokenizer
from mypt_dist.tokenizers.ordinary import text_ids

TAGS = (
    "it was trained on conversations, and MyPT numbered their tags in more than one way: say which with --tokenizer "
    "mypt-2025-12, mypt-2026-03 or a JSON file with a tokenizer that has them"
)


def tokenizer_for(foreign: Foreign, given: str | None, rows: int, where: Path) -> Chosen:
    """The tokenizer of a model with ``rows`` ids. Raises `ConfigError` where nothing names it, or it cannot be."""
    carried = _carried(foreign, rows, where)
    if given is None:
        if carried is None:
            raise ConfigError(
                f"{where} does not say with which tokenizer it was trained: say it with --tokenizer char:TEXTFILE (the "
                "text that it was trained on), gpt2, byte, or a JSON file with a tokenizer"
            )
        if carried.tokenizer.kind == "gpt2" and foreign.settings.get("use_loss_mask"):
            raise ConfigError(f"{where}: {TAGS}")
        return _fitted(carried, rows, where)
    chosen = named_tokenizer(given)
    if carried is not None and carried.tokenizer.kind != chosen.tokenizer.kind:
        raise ConfigError(
            f"--tokenizer {given} is a {chosen.tokenizer.kind} tokenizer; {where} was trained with a "
            f"{carried.tokenizer.kind} tokenizer, says {carried.name}"
        )
    return _fitted(chosen, rows, where)


def _carried(foreign: Foreign, rows: int, where: Path) -> Chosen | None:
    if foreign.tokenizer is not None:
        return tokenizer_of_state(foreign.tokenizer, where)
    # nanoGPT gives a model of its own characters as many rows as they are, and all others those of GPT-2.
    is_gpt2 = foreign.program == "nanogpt" and rows in (GPT2_END + 1, 50304)
    return plain(build_tokenizer("gpt2"), "the size of its vocabulary") if is_gpt2 else None


def _fitted(chosen: Chosen, rows: int, where: Path) -> Chosen:
    """The same without control tokens that the model has no rows for, unless it was named because of them.

    Raises `ConfigError` where ids that text needs have no row.
    """
    tokenizer = chosen.tokenizer
    if tokenizer.vocab_size > rows and tokenizer.kind == "gpt2" and rows == GPT2_END + 1 and _is_ours(tokenizer):
        return Chosen(Gpt2Tokenizer({END_OF_TEXT: GPT2_END}), chosen.ids, chosen.name)
    if text_ids(tokenizer) > rows or (tokenizer.vocab_size > rows and tokenizer.kind != "char"):
        raise ConfigError(
            f"{where}: the model has {rows:,} ids, its tokenizer ({chosen.name}) has {tokenizer.vocab_size:,}: it was "
            "trained with another one, say which: --tokenizer"
        )
    return chosen


def _is_ours(tokenizer: Tokenizer) -> bool:
    return tokenizer.fingerprint == build_tokenizer("gpt2").fingerprint
