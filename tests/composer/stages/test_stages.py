"""The stages, each on its own and all in the graph: with a scripted pool, so that only their logic is at work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stage_kit import ARMS, SCORES, Bench, Letters, after, batch, done, lost, replied

from composer.errors import ConfigError, RequestError
from composer.graph import build
from composer.plugins import check_options
from composer.stages.aggregate import aggregate
from composer.stages.decide import decide
from composer.stages.generate import generate
from composer.stages.verify import verify
from composer.state import State
from composer.trace import Answered, Drafted, Routed, Written
from composer.types import Draft, Failure, Request, Sampling, Stream
from routers.baselines import Unprofiled
from routers.types import Reason


@pytest.mark.parametrize(("k", "asked"), [(1, ("sums",)), (2, ("sums", "base")), (9, ("sums", "base", "law"))])
async def test_decide_asks_the_k_best_arms_best_first_and_keeps_the_reasons(k: int, asked: tuple[str, ...]) -> None:
    bench = Bench()

    state = await after(batch("a", "b"), decide(bench.kit, k=k))

    assert state.asked == state.wanted == (asked, asked)
    assert (state.arms, state.open, state.round) == (("base", "sums", "law"), (True, True), 1)
    assert [reason.skills for reason in state.reasons] == [(("a", 1.0),), (("b", 1.0),)]
    routed = bench.seen(Routed)
    assert [(event.id, event.arms) for event in routed] == [("0", asked), ("1", asked)]
    assert routed[0].scores == pytest.approx(SCORES) and routed[0].reason["skills"] == (("a", 1.0),)


async def test_decide_scores_once_and_closes_what_was_asked() -> None:
    bench = Bench()
    stage = decide(bench.kit)

    state = await after(batch("a"), stage, stage)

    assert (state.asked, state.wanted, state.open, state.round) == ((("sums",),), ((),), (False,), 2)
    assert bench.judge.scored == 1


@pytest.mark.parametrize(
    ("select", "asked"),
    [
        ("top-k", ("sums",)),
        ({"use": "top-k", "k": 2}, ("sums", "base")),
        ({"use": "top-p", "p": 0.6}, ("sums", "base")),
        ({"use": "null-arm", "price": 0.1}, ("sums",)),
        ({"use": "relu-gate", "threshold": 0.1}, ("sums", "base", "law")),
        ({"use": "recruit", "k": 9, "power": 50}, ("sums",)),
        ({"use": "utility", "k": 2}, ("sums", "base")),
        ({"use": "balanced", "k": 2}, ("sums", "base")),
        ({"use": "group-limited", "k": 2}, ("sums", "law")),
        ({"use": "group-limited", "k": 2, "groups": 2}, ("sums", "base")),
        ({"use": "group-limited", "k": 2, "group_of": {"base": "one", "sums": "one"}}, ("sums", "base")),
    ],
    ids=str,
)
async def test_decide_asks_whom_the_selected_rule_chooses_and_says_which_it_was(
    select: Any, asked: tuple[str, ...]
) -> None:
    bench = Bench()

    state = await after(batch("a"), decide(bench.kit, select=select))

    name = select if isinstance(select, str) else select["use"]
    note = state.reasons[0].note
    assert state.asked == (asked,)
    assert note is None if name == "top-k" else note is not None and note.startswith(f"chosen by {name}")
    assert bench.seen(Routed)[0].reason["note"] == note


async def test_levelling_tells_what_it_gives_up() -> None:
    bench = Bench()

    state = await after(
        batch("a", "b", "c", "d"), decide(bench.kit, select={"use": "balanced", "give_up": 0.5, "rounds": 1})
    )

    given = np.mean([SCORES["sums"] - SCORES[arms[0]] for arms in state.asked])
    assert 0 < given <= 0.5
    assert {reason.note for reason in state.reasons} == {
        f"chosen by balanced, which gives up {given:.3f} of score per question of this batch"
    }


async def test_the_rule_stands_beside_what_the_router_has_noted() -> None:
    bench = Bench()
    bench.judge.explain = lambda questions: [Reason(note="by cluster")] * len(questions)  # type: ignore[method-assign]

    state = await after(batch("a"), decide(bench.kit, select="top-p"))

    assert state.reasons[0].note == "by cluster; chosen by top-p"


async def test_a_router_that_looks_at_no_vector_needs_no_encoder() -> None:
    bench = Bench()
    blind = Unprofiled(ARMS, "base")

    def none() -> Letters:
        raise AssertionError("nothing has to be embedded")

    kit = replace(bench.kit, encoder=none, router=lambda _: blind)
    state = await after(batch("a", "b"), decide(kit))

    assert state.asked == (("base",), ("base",))
    assert state.reasons[0].fallback == "no expert has a record yet, so the generalist is asked"


@pytest.mark.parametrize("option", ["router", "policy", "select"])
def test_decide_refuses_a_name_that_nobody_offers_and_says_which_option_it_is(option: str) -> None:
    options: dict[str, Any] = {option: "nobody"}

    with pytest.raises(ConfigError, match=r"no (router|policy|rule) is called 'nobody'") as caught:
        decide(Bench().kit, **options)

    assert caught.value.where == option


async def test_generate_keeps_the_plan_order_whatever_lands_first() -> None:
    bench = Bench(lambda request: done(f"{request.arm} on {request.parent}"))

    state = await after(batch("a", "b"), decide(bench.kit, k=2), generate(bench.kit))

    assert [[reply.draft.text for reply in row] for row in state.replies] == [
        ["sums on 0", "base on 0"],
        ["sums on 1", "base on 1"],
    ]
    assert next((event.id, event.arm) for event in bench.seen(Drafted)) == ("1", "base")
    assert len(bench.seen(Written)) == 4


async def test_generate_asks_nobody_for_rows_that_want_nothing() -> None:
    bench = Bench()
    stage = decide(bench.kit)

    state = await after(batch("a"), stage, generate(bench.kit), stage, generate(bench.kit))

    assert len(bench.pool.requests) == len(state.replies[0]) == 1


async def test_every_sample_has_its_own_seed() -> None:
    bench = Bench(sampling=Sampling(temperature=0.7, seed=5))

    state = await after(batch("a"), decide(bench.kit), generate(bench.kit, samples=3))

    assert [(request.sample, request.sampling.seed) for request in bench.pool.requests] == [(0, 5), (1, 6), (2, 7)]
    assert [reply.sample for reply in state.replies[0]] == [0, 1, 2]


async def test_several_samples_at_temperature_zero_are_refused() -> None:
    bench = Bench()

    with pytest.raises(RequestError, match="would repeat sample 0"):
        await after(batch("a"), decide(bench.kit), generate(bench.kit, samples=2))


@pytest.mark.parametrize(("stage", "option"), [(generate, "samples"), (decide, "k")])
def test_asking_for_nothing_is_refused_when_the_file_is_read(stage: Any, option: str) -> None:
    with pytest.raises(ConfigError):
        check_options(stage, {option: 0}, lambda name: f"experts.yaml ({name})")


@pytest.mark.parametrize(
    ("fields", "arm", "text", "answer"),
    [
        ({}, "sums", "1 + 1 = 2, so the answer is 2.", "2"),
        ({}, "law", "B) the second", "B"),
        ({}, "base", "Paris.", "paris"),
        ({"choices": ("red", "dog")}, "sums", "The answer is A", "A"),
        ({"kind": "list"}, "sums", "Sorted: ant, Bee", "ant, bee"),
        ({}, "sums", "I do not know.", None),
    ],
)
async def test_verify_reads_by_the_query_else_by_what_its_first_arm_writes(
    fields: dict[str, Any], arm: str, text: str, answer: str | None
) -> None:
    state = await after(replied(batch("a", **fields), (arm, done(text))), verify(Bench().kit))

    assert state.replies[0][0].answer == answer


@pytest.mark.parametrize("draft", [Draft("", "The answer is 2", "length"), lost(Request("1", (Stream("sums", ""),)))])
async def test_verify_reads_nothing_from_what_failed_or_was_cut_off(draft: Draft) -> None:
    state = await after(replied(batch("a"), ("sums", draft)), verify(Bench().kit))

    assert state.replies[0][0].answer is None


CUT = Draft("", "The answer is 2", "length")
FAILED = Draft("", "", "error", error=Failure("timeout", "too slow"))


@pytest.mark.parametrize(
    ("drafts", "status", "text", "chosen"),
    [
        ([("sums", done("So it is 2."))], "ok", "2", "sums"),
        ([("sums", FAILED), ("base", done("It is 3."))], "degraded", "3", "base"),
        ([("sums", CUT), ("base", done("It is 3."))], "degraded", "3", "base"),
        ([("sums", done("No idea."))], "degraded", "No idea.", "sums"),
        ([("sums", FAILED)], "failed", "", None),
        ([("sums", done(" \n"))], "failed", "", None),
        ([], "failed", "", None),
    ],
)
async def test_aggregate_says_honestly_how_it_went(
    drafts: list[tuple[str, Draft]], status: str, text: str, chosen: str | None
) -> None:
    bench = Bench()
    state = replied(batch("a", kind="number"), *drafts)

    state = await after(state, verify(bench.kit), aggregate(bench.kit))

    [answer] = state.answers
    assert (answer.status, answer.text, answer.chosen) == (status, text, chosen)
    assert answer.experts == tuple(arm for arm, _ in drafts)
    assert answer.score == (None if chosen is None else pytest.approx(SCORES[chosen]))
    assert bench.seen(Answered) == [Answered("0", text, status, answer.trace_id)]
    assert state.open == (False,)


async def test_best_takes_the_arm_with_the_best_score_and_majority_what_most_say() -> None:
    bench = Bench()
    state = replied(batch("a", kind="number"), ("sums", done("2")), ("base", done("3")), ("law", done("It is 3.")))

    best = await after(state, verify(bench.kit), aggregate(bench.kit))
    most = await after(state, verify(bench.kit), aggregate(bench.kit, by="majority"))

    assert (best.answers[0].text, best.answers[0].chosen) == ("2", "sums")
    assert (most.answers[0].text, most.answers[0].chosen) == ("3", "base")
    assert most.answers[0].agreement == pytest.approx(2 / 3)


async def test_trace_ids_differ_by_run_and_by_query() -> None:
    bench = Bench()
    stages = [decide(bench.kit), generate(bench.kit), aggregate(bench.kit)]

    one = await after(batch("a", "b"), *stages)
    two = await after(State.of(one.queries, "another"), *stages)

    assert len({answer.trace_id for answer in (*one.answers, *two.answers)}) == 4


async def test_the_whole_graph_answers_every_row_whatever_the_others_do() -> None:
    def answer(request: Request) -> Draft:
        if request.parent == "1":
            return lost(request)
        return done({"sums": "The answer is 4.", "base": "Four."}[request.arm])

    bench = Bench(answer)
    kit = bench.kit
    stages = [
        ("decide", decide(kit, k=2)),
        ("generate", generate(kit)),
        ("verify", verify(kit)),
        ("aggregate", aggregate(kit)),
    ]

    state = await build(stages, rounds=3)(batch("2 + 2?", "lost", "1 + 3?"))

    assert [(answer.text, answer.status) for answer in state.answers] == [("4", "ok"), ("", "failed"), ("4", "ok")]
    assert len(bench.pool.requests) == 6
    assert (state.round, state.open) == (2, (False,) * 3)
