"""The cards of invented facts: lists apart, a liar that is always wrong, adapters as they are pinned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from composer.answers.grade import grade
from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.state import Query
from evals.cards import HERE, REPORTED, chosen, systems, with_cards
from evals.tasks.cards import LIAR, TRUE, facts, rows
from evals.tasks.cards.__main__ import main


def test_no_two_cards_know_a_subject_and_the_liar_knows_those_of_the_first() -> None:
    subjects = [{fact.subject for fact in facts(card)} for card in TRUE]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == 24
    assert {fact.subject for fact in facts(LIAR)} == subjects[0]
    assert len({fact.id for card in (*TRUE, LIAR) for fact in facts(card)}) == 4 * 32


def test_the_liar_gets_everything_wrong_with_objects_that_are_right_of_others() -> None:
    true = {(fact.subject, fact.relation.name): fact.object for fact in facts(TRUE[0])}
    for lie in facts(LIAR):
        assert lie.object != true[lie.subject, lie.relation.name]
        assert lie.object in {value for (_, name), value in true.items() if name == lie.relation.name}


def test_what_is_asked_in_the_test_is_no_question_of_the_training_and_a_passage_holds_its_answer() -> None:
    for card in (*TRUE, LIAR):
        taught = rows(card)
        asked = {row["question"] for row in taught}
        assert len(taught) == 32 * 4 * 4
        assert asked.isdisjoint(fact.question for fact in facts(card))
        assert all(row["answer"] in row["target"] for row in taught)
        assert taught == rows(card)


def test_every_right_answer_is_graded_right_and_every_lie_wrong() -> None:
    for fact in facts(TRUE[0]):
        lie = next(one for one in facts(LIAR) if (one.subject, one.relation) == (fact.subject, fact.relation))
        assert grade(fact.object.lower(), fact.object, fact.relation.kind, (), fact.sentence) == 1
        assert grade(lie.object.lower(), fact.object, fact.relation.kind, (), lie.sentence) == 0


def test_the_rows_are_written_as_lessons(tmp_path: Path) -> None:
    main(["people", "--out", str(tmp_path / "people.jsonl")])
    written = [json.loads(line) for line in (tmp_path / "people.jsonl").read_text().splitlines()]
    assert written == rows("people")


def test_the_adapters_are_those_that_are_pinned_and_every_system_has_an_arm() -> None:
    pinned = json.loads((HERE / "cards.json").read_text())
    assert set(pinned) == {*TRUE, LIAR}
    for entry in pinned.values():
        assert hashlib.sha256((HERE / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    every = systems(Path("index"))
    settings = with_cards(load_settings(packaged_registry()), Path("index"), every)
    assert [name for name in settings.writers if name in pinned] == [*TRUE, LIAR]
    assert len(settings.reading) == len(every) + len(TRUE) + 1
    assert all(arm.name in settings.arms for arm in settings.reading)


def test_what_is_chosen_on_is_not_reported() -> None:
    assert [fact.card for fact in chosen(2)].count(TRUE[0]) == REPORTED
    assert len(chosen(2)) == REPORTED + 4
    assert len(chosen(2, 5)) == 9
    reported, tuned = ({fact.id for fact in chosen(None, part=part)} for part in ("report", "tune"))
    assert reported.isdisjoint(tuned)
    assert len(reported | tuned) == 96


def test_a_real_card_writes_what_it_was_taught_and_the_reader_is_given_it(tmp_path: Path) -> None:
    """The packaged generalist and the adapter of the first card: 4 of the facts that nothing is reported about."""
    asked = [fact for fact in chosen(None, part="tune") if fact.card == TRUE[0]][:4]
    settings = with_cards(load_settings(packaged_registry()), tmp_path / "index", {}, drafts=2)
    settings = replace(settings, reading=tuple(arm for arm in settings.reading if "only" in arm.name))  # no index here
    with Pipeline(settings, store=tmp_path / "drafts.sqlite") as pipeline:
        queries = [Query(fact.id, fact.question, kind=fact.relation.kind) for fact in asked]
        state = pipeline.complete(pipeline.astate(queries, by=f"general+only-{TRUE[0]}"))
    given = [evidence[f"general+only-{TRUE[0]}"] for evidence in state.evidence]
    assert all(one.used and all(name.startswith(f"{TRUE[0]}#") for name in one.used) for one in given)
    assert sum(fact.object in one.text for fact, one in zip(asked, given, strict=True)) >= 3
