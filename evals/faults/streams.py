"""Event streams in every shape (R7): the same text however they arrive; damaged ones are refused, and nothing is raised."""

from __future__ import annotations

import gzip
import random
from collections import Counter

from composer.engines.reply import Reply
from composer.engines.retry import Unusable
from composer.engines.sse import Corrupt, Events, Gunzip
from composer.types import Draft, Request, Sampling, Stream
from evals.faults.bench import Bench, Finding
from evals.faults.cuts import transcripts

_LIMIT = 2**20
_ASKED = Request("fuzz", (Stream("far", "?"),), Sampling(max_tokens=5))


def read(pieces: list[bytes], *, packed: bool) -> Draft:
    """What the client makes of these bytes. Raises Unusable or Corrupt."""
    events, reply, unpack = Events(), Reply(), Gunzip(_LIMIT)
    for piece in pieces:
        for event in events.feed(unpack.feed(piece) if packed else piece):
            reply.take(event)
    if packed:
        unpack.end()
    return reply.draft(_ASKED)


def _shaped(raw: bytes, chance: random.Random) -> tuple[list[bytes], bool]:
    """The same stream as another server might send it: line ends, comments, other fields, packed, in pieces."""
    end = chance.choice([b"\n", b"\r\n", b"\r"])
    lines = []
    for line in raw.split(b"\n"):
        if chance.random() < 0.2:
            lines.append(chance.choice([b": still here", b":", b"event: message", b"id: 7", b"retry: 10"]))
        lines.append(line.replace(b"data: ", b"data:") if chance.random() < 0.2 else line)
    raw = end.join(lines)
    packed = chance.random() < 0.3
    return _pieces(gzip.compress(raw, 1) if packed else raw, chance), packed


def _pieces(raw: bytes, chance: random.Random) -> list[bytes]:
    size = chance.choice([1, 2, 7, 64, 1000, len(raw)])
    return [raw[i : i + size] for i in range(0, len(raw), size)]


def _damaged(raw: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, lost, doubled or put in."""
    told = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.randrange(len(told))
        what = chance.randrange(5)
        if what == 0:
            told[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del told[at : at + chance.randrange(1, 40)]
        elif what == 2:
            told[at:at] = chance.choice(
                [b"\n\n", b"data: ", b"\r", b"\x00", b"\xff\xfe", b'{"', b"]" * 5, b"[" * 2000, b"1e999"]
            )
        elif what == 3:
            told[at:at] = told[max(0, at - chance.randrange(200)) : at]
        else:
            told[at : at + 4] = chance.randbytes(4)
        if not told:
            return b"\n"
    return bytes(told)


def fuzzed(_: Bench, n: int) -> Finding:
    """R7: a quarter of `n` shaped, the rest damaged."""
    chance, wrong, refused = random.Random(7), Counter[str](), 0
    wholes = [raw.split(b"\n\n", 3) for raw in transcripts().values()]
    streams = [b"\n\n".join([*parts[:2], parts[3]]) for parts in wholes]  # a piece less: what counts is how many
    texts = [read([raw], packed=False).text for raw in streams]
    for i in range(n):
        which = i % len(streams)
        if i % 4 == 0:
            pieces, packed = _shaped(streams[which], chance)
        else:
            packed = chance.random() < 0.1
            raw = _damaged(gzip.compress(streams[which], 1) if packed else streams[which], chance)
            pieces = _pieces(raw, chance) if i % 16 == 1 else [raw]
        try:
            draft = read(pieces, packed=packed)
        except (Unusable, Corrupt):
            refused += 1
            wrong["a whole one refused"] += i % 4 == 0
        except Exception as why:
            wrong[f"{type(why).__name__} raised"] += 1
        else:
            wrong["another text"] += i % 4 == 0 and draft.text != texts[which]
    figure = (
        f"uncaught exceptions {sum(count for name, count in wrong.items() if 'raised' in name)}, {refused:,} refused"
    )
    figure += "".join(f"; {name} {count}" for name, count in wrong.items() if count)
    return Finding(
        "R7",
        "CR and CR LF, comments, one byte at a time, split characters, gzip; and damaged at random",
        "the same text as whole, or a clean refusal",
        figure,
        n,
        not +wrong,
    )
