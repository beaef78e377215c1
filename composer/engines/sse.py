"""Bytes of an event stream, however they arrive, cut into the data of its events; compressed ones are unpacked first."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Events:
    """Lines end with LF, CR LF or CR; comments and fields other than `data` are dropped; a blank line ends an event. What
    the last blank line leaves is no event."""

    _rest: list[bytes] = field(default_factory=list)
    _data: list[bytes] = field(default_factory=list)
    _cr: bool = False
    _begun: bool = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The events that `piece` completes."""
        if self._cr and piece.startswith(b"\n"):
            piece = piece[1:]  # the second half of a CR LF
            self._cr = False
        if not piece:
            return
        self._cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n" not in piece:
            self._rest.append(piece)  # joined once, so that a long line in small pieces is not copied again and again
            return
        if self._rest:
            piece = b"".join([*self._rest, piece])
        *lines, rest = piece.split(b"\n")
        self._rest = [rest] if rest else []
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        for line in lines:
            if not line:
                if self._data:
                    event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data.clear()
                    yield event
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif line == b"data":
                self._data.append(b"")


class Corrupt(ValueError):
    """What is unpacked is no gzip, or too large."""


class Gunzip:
    """Unpacks gzip as it comes, one member after the other, `limit` bytes at most."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._member = _member()
        self._open = False

    def feed(self, piece: bytes) -> bytes:
        """What `piece` adds. Raises Corrupt."""
        out = []
        while piece:
            self._open = True
            try:
                text = self._member.decompress(piece, self._left + 1)
            except zlib.error as why:
                raise Corrupt(f"it is no gzip: {why}") from why
            self._left -= len(text)
            if self._left < 0 or self._member.unconsumed_tail:
                raise Corrupt("unpacked, it is too large")
            out.append(text)
            piece = self._member.unused_data
            if self._member.eof:
                self._member, self._open = _member(), False
        return b"".join(out)

    def end(self) -> None:
        """Raise Corrupt where the last member is cut."""
        if self._open:
            raise Corrupt("its gzip is cut off")


def _member() -> zlib._Decompress:
    return zlib.decompressobj(wbits=31)
