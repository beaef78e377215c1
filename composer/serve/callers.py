"""How much each caller has under way: nobody takes more than a share, however fast they ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from composer.serve.refusal import Refused


class Callers:
    """Counts what each caller has in flight, at most `most`; a request of n answers counts as n. Who it is (`caller`)
    is the guard's to say: a key, or everybody on this machine where there is none. `wait` says after how many seconds
    it is worth coming back."""

    def __init__(self, most: int, wait: Callable[[], int]) -> None:
        self._most, self._wait = most, wait
        self._flying: Counter[str] = Counter()

    def __getitem__(self, caller: str) -> int:
        """What the caller has in flight."""
        return self._flying[caller]

    @contextmanager
    def entered(self, caller: str) -> Iterator[None]:
        """One request, from its head to the end of its answer: a body that drips takes its place as well."""
        self.take(caller, 1)
        try:
            yield
        finally:
            self.leave(caller, 1)

    def take(self, caller: str, n: int) -> None:
        """Take n places; give them back by `leave`. Raises Refused (429) where there are not so many left."""
        if self._flying[caller] + n > self._most:
            told = f"{self._flying[caller]} of your requests are under way, at most {self._most} may be"
            raise Refused(429, told, code="too_many_requests", retry=self._wait())
        self._flying[caller] += n

    def leave(self, caller: str, n: int) -> None:
        """Give n places back."""
        self._flying[caller] -= n
        if not self._flying[caller]:
            del self._flying[caller]  # keys are few, but a server lives long
