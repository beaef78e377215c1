"""Experts that write what they know, in runs, servers and profiles: what is charged, foretold, recorded and refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from composer.budget import Budget, Limits
from composer.config import load_settings
from composer.errors import ConfigError, InputError
from composer.profile import read_profile
from composer.profiling import profile_file
from composer.running.batch import run_file
from composer.running.forecasting import preview_file
from composer.trace import Drafted, Event
from composer.types import Request
from tests.composer.scripted import Scripted
from tests.composer.serve.served import ask, chat, served
from tests.composer.stages.knowledge_kit import ASKED, DOWN, UP, Book, elsewhere, one
from tests.composer.stages.settling import shown


def test_every_call_is_charged_by_what_it_is_for(scripted: Scripted, tmp_path: Path) -> None:
    pipeline = scripted.pipeline(DOWN, Book(whom="towns"))
    heard: list[Event] = []
    pipeline.listen(heard.append)
    one(pipeline)
    roles = Counter((event.arm, event.role) for event in heard if isinstance(event, Drafted))
    assert roles == {("general+cards", "probe"): 6, ("towns", "knowledge"): 6, ("general+cards", "draft"): 1}
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{{"id": "a", "question": "{ASKED}"}}\n', encoding="utf-8")
    done = run_file(elsewhere(scripted, "run").pipeline(UP, Book()), source, out)
    assert done.ledger is not None
    assert done.ledger["arms"]["towns"]["calls"] == 3


def test_what_experts_will_write_is_foretold(scripted: Scripted, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f'{{"id": "a", "question": "{ASKED}"}}\n', encoding="utf-8")
    told = preview_file(scripted.pipeline(UP), source)
    assert told.forecast.calls == {"general": 1, "law": 1, "general+cards": 1, "towns": 3, "tools": 3}
    assert told.more == 0
    down = preview_file(scripted.pipeline(DOWN), source)
    assert down.forecast.calls == {"general": 1, "law": 1, "general+cards": 2}
    assert down.more == 3 * (2 + 2) - 1


async def test_a_caller_of_the_server_is_told_the_tokens_of_what_was_written_too(scripted: Scripted) -> None:
    async with served(scripted.pipeline(UP, Book())) as (client, door):
        usage = (await chat(client, ask("general+cards", ASKED))).json()["usage"]
        ledger = door.pipeline.ledger
    assert ledger.drafts == 7
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (ledger.tokens_in, ledger.tokens_out)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(scripted: Scripted, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(f'{{"id": {n}, "question": "Which river flows through town {n}?"}}\n' for n in range(4)), "utf-8"
    )
    say = Book(towns="Town lies on the river Tas{n}.", tools="Town has {n} bridges.")

    def answer(request: Request) -> str:
        if request.role == "draft":
            return shown(request)[-400:] if "+" in request.arm else ""
        return str(say(request))

    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert not run_file(elsewhere(scripted, "whole").pipeline(UP, answer), source, whole).stopped
    calls, other = 0, elsewhere(scripted, "second")
    while run_file(other.pipeline(UP, answer), source, parts, budget=Budget(Limits(calls=7))).unfinished:
        calls += 1
        assert calls < 20
    assert calls > 1
    told = [[json.loads(line)["answer"] for line in place.read_text().splitlines()] for place in (whole, parts)]
    assert told[0] == told[1]
    assert all("on the river Tas" in text or "bridges" in text for text in told[0])


def test_a_question_whose_cards_the_budget_refused_is_not_answered_without_them(
    scripted: Scripted, tmp_path: Path
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(f'{{"id": "a", "question": "{ASKED}"}}\n', encoding="utf-8")
    text = UP.replace("small}", "small, sampling: {max_tokens: 4}}", 1).replace(
        "Judge.", "Judge., sampling: {max_tokens: 4}"
    )
    book = Book()
    done = run_file(scripted.pipeline(text, book), source, out, budget=Budget(Limits(tokens=180)))
    assert {request.role for request in book.asked} == {"draft"}  # a reader's call would have fitted, a card's did not
    assert (done.unfinished, done.stopped) == (1, "max-tokens")
    assert not run_file(scripted.pipeline(text, book), source, out).unfinished
    assert len(book.of("knowledge")) == 6


def test_an_arm_that_reads_cards_has_a_record_and_loses_it_when_a_card_changes(
    scripted: Scripted, tmp_path: Path
) -> None:
    data = tmp_path / "labelled.jsonl"
    data.write_text(f'{{"id": "a", "question": "{ASKED}", "answer": "the Tas", "kind": "text"}}\n')

    def answer(request: Request) -> str:
        if request.role == "knowledge":
            return "Norwick lies on the river Tas."
        return "the Tas" if "river Tas" in shown(request) else "the Yare"

    pipeline = scripted.pipeline(UP, answer)
    profile_file(pipeline, data, out=tmp_path / "profile")
    rows = read_profile(tmp_path / "profile", encoder="e" * 64).table.to_pylist()
    assert {row["arm"]: row["score"] for row in rows} == {"general": 0, "law": 0, "general+cards": 1}
    before = pipeline.registry.prints()
    for change in (
        ("system: Towns.", "system: Places."),
        ("drafts: 3", "drafts: 2"),
        ("drafts: 3", "drafts: 3, factuality: delete"),
    ):
        after = scripted.pipeline(UP.replace(*change)).registry.prints()
        assert {name for name in before if before[name] != after[name]} == {"general+cards"}, change


def test_a_writer_is_no_arm(scripted: Scripted) -> None:
    pipeline = scripted.pipeline(UP, Book())
    assert [arm.name for arm in pipeline.registry.arms()] == ["general", "law", "general+cards"]
    assert pipeline.settings.writers == ("towns", "tools")
    with pytest.raises(InputError, match="'towns'"):
        one(pipeline, by="towns")


@pytest.mark.parametrize(
    ("change", "told", "line"),
    [
        (("writers: [towns, tools]", "writers: [towns, law]"), "law writes answers", 10),
        (("writers: [towns, tools]", "writers: [town]"), "no expert is called 'town'", 10),
        (("writers: [towns, tools]", "writers: [towns, towns]"), "towns stands twice", 10),
        (("writers: [towns, tools]", "writers: [towns], index: x"), "one of `index` and `writers`, found both", 10),
        (("writers: [towns, tools], ", ""), "one of `index` and `writers`, found neither", 10),
        (("writers: [towns, tools]", "index: ./x"), "`drafts` is for `writers`", 10),
        (("experts: [general]", "experts: [tools]"), "tools writes knowledge and reads none", 10),
        (("k: 4", "rounds: 2"), "bottom-up has one round", 10),
        (("k: 4", "factuality: off, against: ./x"), "nothing is compared where `factuality` is off", 10),
        (("k: 4", "factuality: maybe"), "'maybe'", 10),
        (("system: Towns.", "sampling: {temperature: 0}"), "at temperature 0 the 3 passages", 6),
        (("system: Towns.", "generalist: true"), "the generalist answers", 6),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], told: str, line: int
) -> None:
    assert change[0] in UP
    (tmp_path / "experts.yaml").write_text(UP.replace(*change))
    with pytest.raises(ConfigError, match=f"experts.yaml:{line} ") as found:
        load_settings(tmp_path / "experts.yaml")
    assert told in found.value.what


def test_filters_need_an_encoder(tmp_path: Path) -> None:
    bare = "\n".join(text for text in UP.splitlines() if not text.startswith("encoder"))
    (tmp_path / "experts.yaml").write_text(bare)
    with pytest.raises(ConfigError, match="need an encoder"):
        load_settings(tmp_path / "experts.yaml")
    (tmp_path / "experts.yaml").write_text(bare.replace("k: 4", "relevance: false, brevity: false"))
    assert load_settings(tmp_path / "experts.yaml").reading[0].name == "general+cards"
