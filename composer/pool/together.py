"""Hosts of several bases: what combines streams of a large model and a small one is opened as one, and closed as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from composer.engines.base import Engine
from composer.pool.queues import AND
from composer.pool.resolver import Resolver, replicas_of
from composer.types import Host


class Together:
    """A resolver that also knows the hosts of several bases. They take the memory of all: a base that is open alone as well
    is there twice, which is what makes a contrasted request atomic."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._unopened: dict[str, Engine] = {}
        self.host_of = resolver.host_of
        self.fingerprint = resolver.fingerprint
        self.cost = resolver.cost

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        """As the resolver's; of several bases the first, with the others beside it."""
        first, *others = [self._resolver.host(base, self._own(base, name, adapters)) for base in _bases(name)]
        if not others:
            return first
        memory = sum(host.memory for host in (first, *others))
        return replace(first, name=name, beside=tuple(others), memory=memory)

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """Bytes of all."""
        return sum(self._resolver.estimate(base, self._own(base, name, adapters)) for base in _bases(name))

    def weights(self, name: str) -> str:
        """What identifies the files of weights."""
        return AND.join(self._resolver.weights(base) for base in _bases(name))

    def where(self, name: str) -> str:
        """Where the first is declared."""
        return self._resolver.where(_bases(name)[0])

    def engine(self, name: str) -> Engine:
        """An engine of the first one's kind."""
        return self._resolver.engine(_bases(name)[0])

    def unopened(self, name: str) -> Engine:
        """An engine of that kind to be asked what it can do, made once, and never opened."""
        if name not in self._unopened:
            self._unopened[name] = self.engine(name)
        return self._unopened[name]

    def replicas(self, name: str) -> int:
        """One of several bases; else as many as the resolver says."""
        return replicas_of(self._resolver, name) if AND not in name else 1

    def _own(self, base: str, name: str, adapters: Sequence[str]) -> list[str]:
        """The adapters that stand on this base."""
        return list(adapters) if base == name else [one for one in adapters if self.host_of(one) == base]


def _bases(name: str) -> list[str]:
    return name.split(AND)
