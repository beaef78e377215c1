"""How much one caller, and all of them together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the server. Sizes in bytes, times in seconds; `queue` counts answers under way, asked or waiting,
    `each` those of one caller (a key), from a request's head to the end of its answer (None: a quarter of the queue, so
    that one caller never fills it); `values` are those of a body (fields, elements, texts): small ones take 30 times the
    room in memory that they take as text, and long to read. `headers` are those of a request, `line` the bytes of
    its head.

    `idle` is how long a connection is kept for another request: longer than clients keep theirs (httpx and OpenAI's 5 s),
    else one is closed under a request. `head`, `body` and `write` bound how long a client may take to send a request's head, its body, and to read what it is
    sent; `deadline` a whole answer; `grace` how long answers under way may go on when we are told to end; `patience` how
    long a stream holds back its first byte, so that an error can still have its own status, and the pause after which a
    comment keeps it alive.
    """

    max_tokens: int
    bytes: int = 2 * 2**20
    depth: int = 64
    values: int = 20_000
    headers: int = 100
    line: int = 16 * 1024
    messages: int = 256
    n: int = 8
    stops: int = 4
    queue: int = 256
    each: int | None = None
    connections: int = 1024
    idle: float = 75.0
    head: float = 10.0
    body: float = 30.0
    write: float = 60.0
    deadline: float = 600.0
    grace: float = 10.0
    patience: float = 5.0

    @property
    def share(self) -> int:
        """What one caller may have under way; never less than one request may ask for.

        >>> Limits(max_tokens=1).share, Limits(max_tokens=1, queue=4).share
        (64, 8)
        """
        return max(self.n, self.queue // 4) if self.each is None else self.each
