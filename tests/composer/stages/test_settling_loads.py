"""What a round costs: all rows together, at most one pass over the hosts for each time somebody is asked, whatever fits into memory."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.settings.specs import StageSpec
from composer.state import Query, State
from composer.traced import calls_of, trace_of
from composer.types import Request, Role
from tests.composer.scripted import SHA, Scripted

HOSTS = ("small", "tiny")
ROWS = 60
STEPS = {
    "nothing": (None, 0),
    "merge": ("use: merge, options: {by: general}", 1),
    "judge": ("use: judge, options: {by: general}", 1),
    "score": ("use: score, options: {by: general}", 1),
    "discuss": ("use: discuss, options: {rounds: 1, reroute: false}", 1),
    "discuss twice": ("use: discuss, options: {rounds: 2, reroute: false}", 2),
    "refine": ("use: refine, options: {by: general, tries: 1}", 2),
    "refine twice": ("use: refine, options: {by: general, tries: 2}", 4),
    "search": ("use: search, options: {paths: 3, rounds: 2}", 2),
    "search with a verifier": ("use: search, options: {paths: 3, rounds: 2, by: general}", 4),
}
"""Each with the passes over the hosts that it may cost."""


def registry(step: str | None) -> str:
    """Two models of which one fits into memory, with two experts each."""
    models = "".join(f"  {name}: {{sources: [small.gguf], sha256: {SHA}, memory: 6MiB}}\n" for name in HOSTS)
    experts = "".join(
        f"  {name}: {{model: {model}, answers: number, system: {name}.}}\n"
        for name, model in (("general", "small"), ("law", "tiny"), ("sorts", "small"), ("sums", "tiny"))
    )
    between = f"  - {{{step}}}\n" if step else ""
    return (
        f"memory: 8MiB\nmodels:\n{models}experts:\n{experts}pipeline:\n  - {{use: decide, options: {{k: 2}}}}\n  - use: generate\n"
        f"  - use: verify\n{between}  - {{use: aggregate, options: {{by: majority}}}}\n"
    )


def say(request: Request) -> str:
    """Experts differ more often than not, and nothing is ever right: rounds are gone through to their end."""
    fixed: dict[Role, str] = {"judge": "A", "score": "3", "check": "WRONG"}
    return fixed.get(request.role) or f"It is {sha256(request.id.encode()).digest()[0] % 4}."


def loads_of(scripted: Scripted, step: str | None, project: str) -> tuple[int, State]:
    scripted.engines.clear()
    pipeline = scripted.pipeline(registry(step), say, project=project)

    async def asked() -> tuple[int, State]:
        async with pipeline:
            state = await pipeline.astate([Query(f"q{n}", f"What is {n} + 3?") for n in range(ROWS)])
            return pipeline.ledger.loads, state

    return asyncio.run(asked())


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    found = Scripted(tmp_path, monkeypatch)
    found.delay = 0.002  # drafts land one after the other
    return found


@pytest.mark.parametrize("name", STEPS)
def test_a_pass_opens_no_host_twice(scripted: Scripted, name: str) -> None:
    step, passes = STEPS[name]
    loads, state = loads_of(scripted, step, "own")

    calls = [call for row in range(ROWS) for call in calls_of(trace_of(state, row))]
    paid = sum(not call["cached"] for call in calls)  # who sees the same again is in the store
    assert paid == sum(len(batch) for engine in scripted.engines for batch in engine.batches), "every call once"
    assert (len(calls) > 2 * ROWS) == (passes > 0)
    # on an idle machine a pass begins with the host that is open, and opens one less; under load it may not know yet that it can
    assert loads <= len(HOSTS) * (1 + passes), "a pass opens no host twice"


REAL: dict[str, tuple[str, dict[str, Any], Role | None]] = {
    "score": ("score", {"by": "general"}, "score"),
    "refine": ("refine", {"by": "general", "tries": 1}, "check"),
    "search": ("search", {"paths": 3, "rounds": 2}, "search"),
    "search with a verifier": ("search", {"paths": 3, "rounds": 1, "by": "general"}, "check"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_with_the_packaged_model_a_stage_runs_to_its_end_and_is_told(name: str) -> None:
    use, options, role = REAL[name]
    settings = load_settings(packaged_registry())
    steps = (("decide", {"k": 3}), ("generate", {}), ("verify", {}), (use, options), ("aggregate", {"by": "majority"}))
    own = tuple(StageSpec(use, dict(told), 1) for use, told in steps)
    pipeline = Pipeline(replace(settings, pipelines={"own": own}))

    async def asked() -> tuple[int, State]:
        async with pipeline:
            texts = ("What is 47 + 38?", "Sort these words: pear, fig, apple")
            state = await pipeline.astate([Query(str(n), text) for n, text in enumerate(texts)], by="own")
            return pipeline.ledger.loads, state

    loads, state = asyncio.run(asked())

    assert loads <= 1 + {"score": 1, "refine": 2, "search": 2}[use], "one host, at most opened anew for other adapters"
    assert [answer.status for answer in state.answers] == ["ok"] * 2  # whether they are right is another question
    traces = [trace_of(state, row) for row in range(2)]
    assert all(trace["merge"].keys() & {"ratings", "tries", "paths", "why"} for trace in traces)
    assert role in {call["role"] for trace in traces for call in calls_of(trace)}
    assert all(call["tokens_out"] > 0 for trace in traces for call in calls_of(trace))
