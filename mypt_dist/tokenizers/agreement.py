"""Do two tokenizers mean the same by every id they share?"""

from collections.abc import Mapping

from mypt_dist.errors import ConfigError
from mypt_dist.tokenizers.base import Tokenizer


def added_specials(before: Tokenizer, now: Tokenizer) -> Mapping[str, int]:
    """The control tokens of ``now`` that ``before`` does not have.

    Nothing is mapped or guessed: the ordinary tokens are the same, and no name has two ids, no id two names.
    Raises `ConfigError` for what differs.
    """
    old, new = before.state(), now.state()
    differing = [key for key in sorted(old.keys() | new.keys()) if key != "specials" and old.get(key) != new.get(key)]
    if differing:
        told = "; ".join(f"{key} is {_short(old.get(key))} there, {_short(new.get(key))} here" for key in differing)
        raise ConfigError(f"its tokenizer has other ordinary tokens than the data's: {told}")
    names = {token: name for name, token in before.specials.items()}
    for name, token in now.specials.items():
        known, taken = before.specials.get(name, token), names.get(token, name)
        if known != token:
            raise ConfigError(f"the control token {name} is {known} in its tokenizer, {token} in the data's")
        if taken != name:
            raise ConfigError(f"token {token} is {taken} in its tokenizer, {name} in the data's")
    return {name: token for name, token in now.specials.items() if name not in before.specials}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]} ..."
