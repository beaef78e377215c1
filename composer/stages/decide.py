"""decide: embed once, score the arms, and let the policy say who is asked next."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType
from typing import Annotated, ParamSpec, TypeVar

import numpy as np
from annotated_types import Ge

from composer.plugins import load
from composer.stages.kit import Kit, Stage
from composer.state import State, Update
from composer.trace import Routed
from routers.baselines import Unprofiled
from routers.types import Abstain, Ask, Policy, Questions, Router

P = ParamSpec("P")
T = TypeVar("T")


def decide(kit: Kit, *, router: str = "auto", policy: str = "fixed", k: Annotated[int, Ge(1)] = 1) -> Stage:
    """Let `policy` choose by the scores of `router` (`auto`: what `coe fit router` installed, else skill); `fixed` asks the `k` best arms once.

    A ConfigError about an option has the option's name as its `where`: who reads the file knows the line.
    """
    load("routers", router, "router")  # fitted on the first question, but a misspelt name is told before
    chooser: Policy = load("policies", policy, "policy")(k=k)

    async def stage(state: State) -> Update:
        judge = kit.router(router)
        update: Update = {}
        if state.scores is None:
            update = await _aside(_score, kit, judge, state)
            state = state.apply(update)
        scores = state.scores
        assert scores is not None
        rows = [i for i, is_open in enumerate(state.open) if is_open]
        seen = state.seen
        decisions = chooser.next(scores[rows], judge.arms, [seen[i] for i in rows])
        asked = list(state.asked)
        wanted: list[tuple[str, ...]] = [()] * len(asked)
        still, abstained = list(state.open), list(state.abstained)
        for row, decision in zip(rows, decisions, strict=True):
            if isinstance(decision, Ask):
                wanted[row] = decision.arms
                asked[row] += decision.arms
                by_arm = {arm.name: float(score) for arm, score in zip(judge.arms, scores[row], strict=True)}
                kit.emit(Routed(state.queries[row].id, decision.arms, by_arm, asdict(state.reasons[row])))
            else:
                still[row] = False
                abstained[row] = decision.why if isinstance(decision, Abstain) else None
        return {
            **update,
            "asked": tuple(asked),
            "wanted": tuple(wanted),
            "open": tuple(still),
            "abstained": tuple(abstained),
            "round": state.round + 1,
        }

    return stage


async def _aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` beside the event loop, so that it goes on meanwhile; where none runs, do it here."""
    asyncio = sys.modules.get("asyncio")  # 25 ms to import, and nobody is in a loop who never did
    if asyncio is None or not _in_loop(asyncio):
        return work(*args, **kwargs)
    found: T = await asyncio.to_thread(work, *args, **kwargs)
    return found


def _in_loop(asyncio: ModuleType) -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _score(kit: Kit, router: Router, state: State) -> Update:
    text = tuple(query.text for query in state.queries)
    blind = isinstance(router, Unprofiled)  # then no encoder is needed, and there may be none
    vectors = np.zeros((len(text), 0), dtype=np.float32) if blind else kit.encoder().encode(text)
    questions = Questions(ids=tuple(query.id for query in state.queries), text=text, vectors=vectors)
    return {
        "scores": router.score(questions),
        "reasons": tuple(router.explain(questions)),
        "arms": tuple(arm.name for arm in router.arms),
    }
