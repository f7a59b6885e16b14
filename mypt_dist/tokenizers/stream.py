"""What text may already be shown while ids still arrive?"""

import codecs
from collections.abc import Iterable

from mypt_dist.tokenizers.base import Tokenizer


class StreamDecoder:
    """Decodes ids as they come and holds back a character until its last byte is there.

    The pieces joined, `finish` included, equal ``tokenizer.decode`` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._first_special = min(tokenizer.specials.values())
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Iterable[int]) -> str:
        """The text that became complete with ``ids``. Raises `DataError` for an id outside the vocabulary."""
        return "".join(self._one(int(token)) for token in ids)

    def finish(self) -> str:
        """U+FFFD if the last character is incomplete, else nothing. The decoder may then be used anew."""
        return self._utf8.decode(b"", final=True)

    def _one(self, token: int) -> str:
        data = self._tokenizer.token_bytes(token)
        if token >= self._first_special:
            return self.finish() + data.decode()
        return self._utf8.decode(data)
