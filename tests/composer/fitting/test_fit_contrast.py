"""coe fit contrast: what is tried, what is installed, and when the installed is used."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from composer.errors import ConfigError, InputError
from composer.fitting.contrast import fit_contrasts
from composer.jsonl import Labelled, read_questions
from composer.pipeline import Pipeline
from composer.places import contrasts_folder, router_folder
from composer.records.contrasts import ContrastRecord, read_contrasts, write_contrasts
from composer.state import Query
from composer.traced import trace_of
from composer.types import Failure, Request
from tests.composer.scripted import Scripted
from tests.composer.stages.test_contrasted import CAN, EXPERTS

STEPS = "pipeline: [{use: decide}, {use: contrast}, {use: generate}, {use: verify}, {use: aggregate}]\n"
TEXT = f"{EXPERTS}contrasts:\n  c: {{against: law, arms: [general]}}\n  d: {{against: sums, arms: [general]}}\n{STEPS}"


def number(request: Request) -> int:
    turns = request.streams[0].prompt
    return int((turns if isinstance(turns, str) else turns[-1].content).split()[2])


def helps(request: Request) -> str:
    """Half of the questions are answered rightly; with a good deal of law taken off, three quarters."""
    n = number(request)
    law = len(request.streams) == 2 and request.streams[1].adapter == "law" and request.streams[1].weight <= -0.5
    return str(n) if n % 4 < (3 if law else 2) else "0"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a.gguf").write_bytes(b"adapter")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    scripted = Scripted(tmp_path, monkeypatch)
    scripted.caps = CAN
    return scripted


@pytest.fixture
def items(tmp_path: Path) -> tuple[Labelled, ...]:
    rows = [
        {"id": f"q{n}", "question": f"What is {n} plus {'nothing ' * (n % 7)}?", "answer": str(n)}
        for n in range(1, 401)
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps({**row, "kind": "number"}) + "\n" for row in rows))
    return read_questions(path, labelled=True).rows


def test_what_helps_is_installed_and_used_and_the_trace_says_why(
    scripted: Scripted, items: tuple[Labelled, ...]
) -> None:
    pipeline = scripted.pipeline(TEXT, helps)
    [found] = fit_contrasts(pipeline, items)
    assert (found.plain, found.arm, found.installed) == ("general", "general~c", True)
    assert found.beta >= 0.5
    assert found.questions + found.held == 400
    assert found.learnt["general~d"][0] == 0
    assert found.learnt["general~c"][0] == pytest.approx(0.25, abs=0.06)
    assert list(found.lines())[-1] == "  on"

    seen: list[Request] = []

    def answer(request: Request) -> str:
        seen.append(request)
        return helps(request)

    again = scripted.pipeline(TEXT, answer)
    state = asyncio.run(again.astate([Query("new", "What is 1002 plus zero?", kind="number")]))
    [draft] = trace_of(state, 0)["drafts"]
    assert (draft["name"], draft["answer"]) == ("general", "1002")
    assert draft["contrast"]["partner"] == "law"
    assert draft["contrast"]["beta"] == found.beta
    assert "points more often" in draft["contrast"]["why"]
    assert "held-out questions" in draft["contrast"]["why"]
    asyncio.run(again.astate([Query("named", "What is 1006 plus zero?", kind="number")], by="general"))
    assert [len(request.streams) for request in seen] == [2, 1]  # who names an expert gets it as it is


def test_what_does_not_help_is_off(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    pipeline = scripted.pipeline(TEXT, lambda request: str(number(request)) if number(request) % 2 else "0")
    [found] = fit_contrasts(pipeline, items)
    assert not found.installed
    assert found.difference == (0, 0, 0)
    assert list(found.lines())[-1].endswith("off: that it helps is not shown")
    state = asyncio.run(scripted.pipeline(TEXT).astate([Query("new", "What is 1002 plus zero?")]))
    assert "contrast" not in trace_of(state, 0)["drafts"][0]


def test_a_record_of_other_settings_is_left_out_and_the_user_is_told(
    scripted: Scripted, items: tuple[Labelled, ...]
) -> None:
    fit_contrasts(scripted.pipeline(TEXT, helps), items, betas=(0.9,))
    changed = scripted.pipeline(TEXT.replace("Law.", "Judge."), helps)
    assert changed.contrasts == {}
    assert any("general~c" in text and "left out" in text for text in scripted.said)


def test_of_the_unchosen_a_record_is_left_out_where_another_router_ranks(
    scripted: Scripted, items: tuple[Labelled, ...]
) -> None:
    def any_helps(request: Request) -> str:
        n, much = number(request), len(request.streams) == 2 and request.streams[1].weight <= -0.5
        return str(n) if n % 4 < (3 if much else 2) else "0"

    unchosen = f"{EXPERTS}contrasts:\n  c: {{against: unchosen, arms: [general]}}\n{STEPS}"
    for text, told in ((unchosen, True), (unchosen.replace("unchosen", "law"), False)):
        fit_contrasts(scripted.pipeline(text, any_helps), items, betas=(0.9,))
        assert set(scripted.pipeline(text).contrasts) == {"general"}
        by_another = text.replace("{use: decide}", "{use: decide, options: {router: neighbours}}")
        assert set(scripted.pipeline(by_another).contrasts) == (set() if told else {"general"})
        folder = router_folder(scripted.pipeline(text).registry)
        folder.mkdir(parents=True)
        (folder / "router.json").write_text('{"another": "router"}')  # as `coe fit router` installs one
        scripted.said.clear()
        assert set(scripted.pipeline(text).contrasts) == (set() if told else {"general"})
        assert any("another router" in line for line in scripted.said) == told
        shutil.rmtree(folder)
        assert set(scripted.pipeline(text).contrasts) == {"general"}


def test_questions_are_given_out_by_the_router_that_the_pipeline_decides_by(
    scripted: Scripted, items: tuple[Labelled, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    real = Pipeline.router
    monkeypatch.setattr(Pipeline, "router", lambda self, name: named.append(name) or real(self, name))
    text = TEXT.replace("{use: decide}", "{use: decide, options: {router: neighbours}}")
    fit_contrasts(scripted.pipeline(text, helps), items, betas=(0.9,))
    assert set(named) == {"neighbours"}


def test_a_damaged_record_is_told_with_its_file(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(TEXT)
    folder = contrasts_folder(pipeline.registry)
    record = ContrastRecord("general", "general~c", 0.5, 0.1, 0.1, 0.05, 0.2, 40, ("a", "b"))
    write_contrasts(folder, [record])
    assert read_contrasts(folder, {"general": "a", "general~c": "b"}) == ({"general": record}, [])
    assert read_contrasts(folder, {"general": "a", "general~c": "x"}) == ({}, ["general~c"])
    (folder / "contrasts.json").write_text('[{"plain": 3}]')
    with pytest.raises(InputError, match="cannot be used") as refused:
        read_contrasts(folder, {})
    assert "contrasts.json" in (refused.value.where or "")


def test_drafts_that_fail_are_told_and_no_reason_to_turn_anything_on(
    scripted: Scripted, items: tuple[Labelled, ...]
) -> None:
    def now_and_then(request: Request) -> str | Failure:
        return Failure("timeout", "late") if len(request.streams) == 1 and number(request) % 20 == 0 else "0"

    def often(request: Request) -> str | Failure:
        return Failure("timeout", "late") if len(request.streams) == 1 and number(request) % 4 == 0 else "0"

    with pytest.raises(InputError, match="have no reply: late"):
        fit_contrasts(scripted.pipeline(TEXT, often), items)
    [found] = fit_contrasts(scripted.pipeline(TEXT, now_and_then), items)
    assert (found.installed, found.difference[0]) == (False, 0)


def test_too_few_questions_and_none_of_the_arm_are_told(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    with pytest.raises(InputError, match="too few to test a contrast on"):
        fit_contrasts(scripted.pipeline(TEXT, helps), items[:60])
    heard: list[str] = []
    text = TEXT.replace("arms: [general]", "arms: [sums]", 1)
    [found] = fit_contrasts(scripted.pipeline(text, helps), items, say=heard.append)
    assert (found.plain, found.arm) == ("general", "general~d")
    assert any("gives 0 of these questions to sums" in line and "stays off" in line for line in heard)
    with pytest.raises(InputError, match="declares no contrast"):
        fit_contrasts(scripted.pipeline(EXPERTS, helps), items)


def test_a_contrast_can_be_used_by_name(scripted: Scripted) -> None:
    text = TEXT.replace("{use: contrast}", "{use: contrast, options: {use: d}}")
    state = asyncio.run(scripted.pipeline(text, helps).astate([Query("new", "What is 1002 plus zero?")]))
    assert trace_of(state, 0)["drafts"][0]["contrast"]["partner"] == "sums"
    with pytest.raises(ConfigError, match="no contrast is called 'e'"):
        asyncio.run(scripted.pipeline(text.replace("use: d}", "use: e}"), helps).astate([Query("new", "What is 1?")]))
