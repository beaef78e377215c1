"""Formulas and programs on their way through the stages: real processes compare the ones and run the others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from stage_kit import Bench, after, batch, done, replied

from composer.answers.program import Verdict
from composer.graph import build
from composer.stages.aggregate import aggregate
from composer.stages.decide import decide
from composer.stages.generate import generate
from composer.stages.verify import verify
from composer.state import Answer, Query, State
from composer.traced import trace_of
from composer.types import Draft, Request

TESTS = ("assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(2, -1) == 1")
RIGHT = "def add(a, b):\n    return a + b"
SAME = "def add(a, b):\n    return b + a"
ALMOST = "def add(a, b):\n    return a + abs(b)"  # passes two of three
WRONG = "def add(a, b):\n    return 7"  # passes none
WORSE = "def add(a, b):\n    raise ValueError"


def fenced(program: str) -> Draft:
    return done(f"Here it is:\n```python\n{program}\n```\nIt adds.")


def programs(*own: tuple[str, str], **fields: Any) -> State:
    return replied(
        batch("Add.", **{"kind": "code", "tests": TESTS, **fields}), *((arm, fenced(text)) for arm, text in own)
    )


async def answered(state: State, by: str = "best", *, run_code: bool = True) -> Answer:
    kit = Bench().kit
    state = await after(state, verify(kit, run_code=run_code), aggregate(kit, by=by))
    return state.answers[0]


async def test_no_program_is_run_unless_that_is_allowed() -> None:
    state = await after(programs(("sums", RIGHT)), verify(Bench().kit))

    [reply] = state.replies[0]
    assert (reply.answer, reply.verdicts, reply.passed) == (RIGHT, (), None)


async def test_every_new_program_is_run_once_against_the_tests_of_its_query() -> None:
    stage = verify(Bench().kit, run_code=True)

    once = await after(programs(("sums", ALMOST)), stage)
    twice = await after(once, stage)

    assert once.replies[0][0].verdicts == ("passed", "passed", "failed")
    assert once.replies[0][0].passed == 2
    assert twice.replies[0][0] is once.replies[0][0]


@pytest.mark.parametrize(
    ("draft", "fields"),
    [
        (Draft("", f"```python\n{RIGHT}", "length"), {}),
        (done("I do not know."), {}),
        (fenced(RIGHT), {"tests": ()}),
        (fenced(RIGHT), {"kind": "text"}),
    ],
    ids=["cut off", "no program", "no tests", "another kind"],
)
async def test_where_there_is_nothing_to_try_nothing_is_run(draft: Draft, fields: dict[str, Any]) -> None:
    state = replied(batch("Add.", **{"kind": "code", "tests": TESTS, **fields}), ("sums", draft))

    state = await after(state, verify(Bench().kit, run_code=True))

    assert state.replies[0][0].verdicts == ()


async def test_a_query_with_tests_asks_for_a_program_though_nobody_says_so() -> None:
    answer = await answered(programs(("base", RIGHT), kind=None))

    assert (answer.text, answer.status) == (RIGHT, "ok")


@pytest.mark.parametrize("by", ["best", "majority", "weighted", "log-odds", "self-consistent", "dawid-skene"])
async def test_the_program_that_passes_most_tests_is_taken_whatever_the_aggregator_says(by: str) -> None:
    state = programs(("sums", ALMOST), ("base", ALMOST), ("law", RIGHT))

    answer = await answered(state, by)

    assert (answer.text, answer.chosen, answer.status) == (RIGHT, "law", "ok")
    assert answer.agreement == pytest.approx(1 / 3)


@pytest.mark.parametrize("by", ["best", "majority"])
async def test_programs_that_pass_the_same_tests_agree_and_the_trusted_arm_gives_its_own(by: str) -> None:
    answer = await answered(programs(("base", RIGHT), ("sums", SAME), ("law", WRONG)), by)

    assert (answer.text, answer.chosen) == (SAME, "sums")
    assert answer.agreement == pytest.approx(2 / 3)


async def test_among_programs_that_pass_as_many_other_tests_the_aggregator_decides() -> None:
    tests = ("assert add(1, 2) == 3", "assert add(1, 2) == 7")
    state = programs(("sums", RIGHT), ("base", WRONG), ("law", WRONG), tests=tests)

    best, most = await answered(state), await answered(state, "majority")

    assert (best.text, most.text) == (RIGHT, WRONG)
    assert (best.status, most.status) == ("degraded", "degraded")  # neither passes all
    assert (best.agreement, most.agreement) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("by", ["best", "majority", "log-odds"])
async def test_programs_that_fail_every_test_are_no_agreement(by: str) -> None:
    answer = await answered(programs(("base", WRONG), ("law", WORSE), ("sums", WRONG)), by)

    assert (answer.text, answer.chosen) == (WRONG, "sums")
    assert (answer.status, answer.agreement) == ("degraded", 0.0)


async def test_without_tests_programs_are_combined_by_their_text() -> None:
    answer = await answered(programs(("sums", SAME), ("base", WRONG), ("law", WRONG)), "majority", run_code=False)

    assert (answer.text, answer.status) == (WRONG, "ok")
    assert answer.agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("verdicts", "text", "status"),
    [
        ([("refused",), ("refused",), ("refused",)], WRONG, "ok"),
        ([("refused",), ("refused",), ("passed",)], RIGHT, "ok"),
        ([("failed",), ("refused",), ("failed",)], WRONG, "ok"),
    ],
    ids=["nobody knows", "one is known to pass", "one is not known to fail"],
)
async def test_a_program_that_could_not_be_tried_stands_behind_one_that_passes_and_before_those_that_fail(
    verdicts: list[tuple[Verdict, ...]], text: str, status: str
) -> None:
    kit = Bench().kit
    state = await after(programs(("base", WRONG), ("sums", WRONG), ("law", RIGHT), tests=TESTS[:1]), verify(kit))
    tried = tuple(replace(reply, verdicts=own) for reply, own in zip(state.replies[0], verdicts, strict=True))

    state = await after(state.apply({"replies": (tried,)}), verify(kit))
    state = await after(state, aggregate(kit, by="majority"))

    assert (state.answers[0].text, state.answers[0].status) == (text, status)


async def test_the_trace_tells_which_tests_each_draft_passed() -> None:
    kit = Bench().kit
    state = programs(("sums", ALMOST), ("law", WRONG))

    state = await after(state, verify(kit, run_code=True), aggregate(kit))

    assert [draft["verdicts"] for draft in trace_of(state, 0)["drafts"]] == [
        ["passed", "passed", "failed"],
        ["failed", "failed", "failed"],
    ]


async def test_the_whole_graph_finds_the_right_program_beside_other_questions() -> None:
    def answer(request: Request) -> Draft:
        return done("It is 7.") if request.parent == "sum" else fenced(RIGHT if request.arm == "base" else WRONG)

    kit = Bench(answer).kit
    stages = [
        ("decide", decide(kit, k=2)),
        ("generate", generate(kit)),
        ("verify", verify(kit, run_code=True)),
        ("aggregate", aggregate(kit)),
    ]
    queries = (Query("add", "Add.", kind="code", tests=TESTS), Query("sum", "3 + 4?", kind="number"))

    state = await build(stages, rounds=3)(State.of(queries, run="run"))

    told = [(answer.text, answer.chosen, answer.status) for answer in state.answers]
    assert told == [(RIGHT, "base", "ok"), ("7", "sums", "ok")]


# Formulas


def formulas(*own: tuple[str, str]) -> State:
    return replied(
        batch("How long?", kind="math"), *((arm, done(f"So it is $\\boxed{{{text}}}$.")) for arm, text in own)
    )


async def test_equal_formulas_in_other_forms_agree_and_the_answer_is_the_formula_as_read() -> None:
    state = formulas(("sums", "3"), ("base", r"2\sqrt{2}"), ("law", r"\sqrt{8}"))

    answer = await answered(state, "majority")

    assert (answer.text, answer.chosen, answer.status) == (r"2\sqrt{2}", "base", "ok")
    assert answer.agreement == pytest.approx(2 / 3)


async def test_others_go_on_while_formulas_are_compared() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    kit = Bench().kit
    task = asyncio.create_task(others())

    await after(formulas(("base", r"\sqrt{50}"), ("law", r"5\sqrt{2}")), verify(kit))

    task.cancel()
    assert turns > 0


async def test_a_policy_is_told_that_equal_formulas_agree_and_that_a_failing_program_is_no_answer() -> None:
    kit = Bench().kit
    [formula] = (await after(formulas(("base", r"\frac{1}{4}"), ("sums", "0.25"), ("law", "3")), verify(kit))).seen
    [tried] = (await after(programs(("sums", ALMOST), ("law", RIGHT)), verify(kit, run_code=True))).seen

    assert [answer for _, answer in formula.answers] == [r"\frac{1}{4}", r"\frac{1}{4}", "3"]
    assert [answer for _, answer in tried.answers] == [None, RIGHT]
