"""The text of a draft that is written token by token: never half a character, and nothing of a text that ends it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from composer.types import Delta


class Written:
    """Bytes go in, text comes out. `tell` hears each piece once nothing can change it any more."""

    def __init__(self, stop: Sequence[str] = (), tell: Callable[[Delta], None] = lambda _: None) -> None:
        self.text = ""
        self.met = ""  # the text that ended it
        self._stop = [one for one in stop if one]
        self._tell, self._told = tell, 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> bool:
        """A token's bytes; whether a stop text is met now, which ends the text before it."""
        before = len(self.text)
        self.text += self._decoder.decode(piece)
        found = []
        for stop in self._stop:
            at = self.text.find(stop, max(0, before - len(stop) + 1))
            if at >= 0:
                found.append((at, stop))
        if found:
            at, self.met = min(found)
            self.text = self.text[:at]
        self._say(len(self.text) if found else len(self.text) - self._open())
        return bool(found)

    def end(self) -> str:
        """The whole text; of a character that was begun and not ended, one that stands for it."""
        if not self.met:
            self.text += self._decoder.decode(b"", final=True)
        self._say(len(self.text))
        return self.text

    def _open(self) -> int:
        """How many characters at the end may turn out to begin a stop text."""
        return max(
            (n for stop in self._stop for n in range(1, len(stop)) if self.text.endswith(stop[:n])),
            default=0,
        )

    def _say(self, upto: int) -> None:
        if upto > self._told:
            self._tell(Delta(self.text[self._told : upto], self._told))
            self._told = upto
