"""What the pool asks of others: the registry that resolves names, and the store that keeps drafts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from composer.engines.base import Engine
from composer.settings.contrast import CONTRASTING
from composer.types import Draft, Failure, Fingerprint, Host, Request, Usage


class Resolver(Protocol):
    """What the pool asks of the registry. One that also has `replicas(name) -> int` lets a host be opened that often."""

    def host_of(self, expert: str) -> str:
        """The host (model) that serves an expert."""
        ...

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        """Everything needed to open `name` with these adapters; fetches and checks files, so it may take long."""
        ...

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        """Bytes it will keep resident, known without any file."""
        ...

    def weights(self, name: str) -> str:
        """What identifies the host's weight file."""
        ...

    def where(self, name: str) -> str:
        """Where the host is declared, for messages."""
        ...

    def fingerprint(self, expert: str) -> Fingerprint:
        """What determines the expert's text."""
        ...

    def engine(self, name: str) -> Engine:
        """A new engine for the host."""
        ...

    def cost(self, request: Request, usage: Usage) -> float | None:
        """Money for one call; None where no price is known."""
        ...


class Drafts(Protocol):
    """What the pool asks of the store."""

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        """The complete drafts among `keys`."""
        ...

    async def put(self, draft: Draft, request: Request) -> None:
        """Keep a draft; returns once it would survive a power cut."""
        ...


def replicas_of(resolver: Resolver, name: str) -> int:
    """How often a host may be open at once; 1 where the registry does not say."""
    ask = getattr(resolver, "replicas", None)
    return max(1, int(ask(name))) if ask is not None else 1


def is_special(request: Request) -> bool:
    """Whether it is more than a plain draft, which every engine can."""
    return request.target is not None or request.mix is not None or any(one.routing for one in request.streams)


def cannot_serve(engine: Engine, name: str, request: Request) -> Draft | None:
    """The failed draft of a request that the host's `engine`, which need not be open, is not made for, so that nothing is opened for it: it scores no
    given text, or decodes no streams together, or none of several bases. None where it can."""
    caps, several = engine.caps, len({stream.base for stream in request.streams} | {None}) > 1
    if request.target is not None and not caps.scores:
        why = "scores no given text; `llamacpp`, `transformers` and a server of `vllm` do"
    elif request.mix is not None and not caps.contrast:
        why = f"decodes no streams together: serve it by {CONTRASTING}"
    elif request.mix is not None and several and not caps.beside:
        why = "decodes no streams of several bases together; `llamacpp` and `transformers` do"
    elif any(stream.routing for stream in request.streams) and caps.level != "hooks":
        why = "reaches no experts inside a model: `transformers` does"
    else:
        return None
    failure = Failure("unsupported", f"the engine of {name!r} ({type(engine).__name__}) {why}")
    return Draft("", "", "error", served_by=name, error=failure)


def with_row(resolver: Resolver, name: str, draft: Draft) -> Draft:
    """The failed draft of a prompt that was too long for the host `name`, with the row that says how long one may be; any other as it
    is. The row has a line of its own: a server tells its callers the first one alone."""
    if draft.error is None or draft.error.kind != "too_long":
        return draft
    step = f"shorten the question, or raise `context` at {resolver.where(model_of(name))}"
    return replace(draft, error=replace(draft.error, message=f"{draft.error.message}\n  next: {step}"))


def replica(name: str, place: int) -> str:
    """The name of a host's n-th process: `qwen`, `qwen#2`, … (no model's name holds a `#`)."""
    return name if place == 1 else f"{name}#{place}"


def model_of(name: str) -> str:
    """The host that a replica is one of."""
    return name.partition("#")[0]
