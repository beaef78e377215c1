"""Running what experts wrote: the programs of a batch together, and those that call a tool asked again until they end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from composer.answers.sandbox import Outcome, Sandbox
from composer.answers.strategies import Attempt
from composer.errors import EngineError
from composer.settings.strategy import Limits, StrategySpec
from composer.stages.asking import Ask
from composer.stages.kit import Arms
from composer.stages.prompting import prompt_of
from composer.state import Query
from composer.types import Draft, Kind, Prompt, Request

Runs = Callable[[Limits], Sandbox]
_TURNS = 8  # numbers of requests that a sample has for its turns; an expert calls less often


@dataclass(frozen=True, slots=True)
class Written:
    """A draft of an arm with the strategy `spec`, for a question whose answers are of this kind."""

    query: Query
    arm: str
    spec: StrategySpec
    draft: Draft
    kind: Kind
    sample: int = 0


async def run_all(registry: Arms, ask: Ask, sandbox: Runs, written: Sequence[Written]) -> list[Attempt]:
    """Every draft as it ended. All programs of a round run one after the other, beside the event loop; all experts that called
    go on in one submission, so that a round costs one pass over the hosts, and there are at most as many rounds as calls. A
    request that was not allowed is `cancelled`, and its attempt with it."""
    attempts = [Attempt(one.spec, one.kind, one.draft) for one in written]
    while await _run(sandbox, attempts):
        requests: dict[int, Request] = {}
        for place, (one, attempt) in enumerate(zip(written, attempts, strict=True)):
            if attempt.asks and (request := _request(registry, one, attempt)) is not None:
                requests[place] = request
        drafts = await ask(list(requests.values())) if requests else {}
        for place, request in requests.items():
            attempts[place].heard(drafts[request.id])
    return attempts


async def _run(sandbox: Runs, attempts: Sequence[Attempt]) -> bool:
    """Run what is to be run now; whether there was anything."""
    waiting = [attempt for attempt in attempts if attempt.program is not None]
    if not waiting:
        return False

    stopped = threading.Event()

    def run() -> list[Outcome]:
        found: list[Outcome] = []
        for one in waiting:
            if stopped.is_set():  # whoever wanted it has gone, and may have closed the sandbox
                break
            found.append(_outcome(sandbox, one))
        return found

    try:
        outcomes = await asyncio.to_thread(run)
    finally:
        stopped.set()
    for attempt, outcome in zip(waiting, outcomes, strict=True):
        attempt.ran(outcome)
    return True


def _outcome(sandbox: Runs, one: Attempt) -> Outcome:
    """What came of its program. Where nothing can run it, the batch goes on: the draft has failed like one that no host wrote."""
    try:
        own = sandbox(one.spec.limits)
    except EngineError as why:
        return Outcome(None, "", str(why), broken=True)
    return own.run(one.program or "")


def _request(registry: Arms, one: Written, attempt: Attempt) -> Request | None:
    """The next turn; None where there is no room for it in the context: then the attempt has ended."""
    query = one.query
    prompt = attempt.prompt(prompt_of(registry, query, one.arm, None))
    if not registry.fits(one.arm, _text(prompt)):
        attempt.give_up("what was said fills the context of its model")
        return None
    return query.asker.text(
        one.arm,
        "tool",
        registry.stream(one.arm, prompt),
        registry.sampling(one.arm),
        sample=one.sample,
        place=one.sample * _TURNS + len(attempt.calls),
    )


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
