"""`coe fit answers --mergers`: who is chosen to merge per task, what it is chosen by, and when the choice is used."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from composer.cli import app
from composer.command.run import tell
from composer.errors import InputError
from composer.fitting.mergers import FittedMergers, experts_of, fit_mergers
from composer.installed import installed_sha
from composer.jsonl import Labelled, read_questions
from composer.pipeline import Pipeline
from composer.places import mergers_folder
from composer.profile import find_profile
from composer.profiling import profile_file
from composer.records.mergers import ALL, Merger, read_mergers
from composer.running.batch import run_file
from composer.show import drafts_text
from composer.state import Query
from composer.trace_page import trace_page
from composer.traced import trace_of
from composer.types import Draft, Failure, Request
from tests.composer.scripted import THREE, Scripted

TASKS = {"adding": 40, "taxes": 40, "rare": 9}


def registry(use: str = "merge", by: str = "auto") -> str:
    return (
        f"{THREE.replace('{model: small', '{answers: number, model: small')}"
        "pipeline:\n  - {use: decide, options: {k: 3}}\n  - use: generate\n  - use: verify\n"
        f"  - {{use: {use}, options: {{by: {by}}}}}\n  - {{use: aggregate, options: {{by: majority}}}}\n"
    )


def text_of(request: Request) -> str:
    prompt = request.streams[0].prompt
    return prompt if isinstance(prompt, str) else prompt[-1].content


class Book:
    """Of `adding` sums is right, of `taxes` and `rare` law, and each merges what it answers itself; general never is."""

    def __init__(self) -> None:
        self.merges: list[Request] = []

    def __call__(self, request: Request) -> str | Draft | Failure:
        if request.role == "judge":
            return "A"
        task, number = text_of(request).splitlines()[-1].split()[:2]
        good = {"adding": "sums", "taxes": "law", "rare": "law"}[task]
        if request.role == "merge":
            self.merges.append(request)
        wrong = {"general": 1, "sums": 2, "law": 3}[request.arm]
        return f"It is {number}." if request.arm == good else f"It is {int(number) + wrong}."


def lines(tmp_path: Path) -> Path:
    place = tmp_path / "labelled.jsonl"
    rows = [
        {"id": f"{task}-{i}", "question": f"{task} {100 + i} {task} of {task} {'x' * i}", "answer": str(100 + i)}
        for task, many in TASKS.items()
        for i in range(many)
    ]
    told = [json.dumps({**row, "kind": "number", "task": str(row["id"]).partition("-")[0]}) for row in rows]
    place.write_text("\n".join(told), encoding="utf-8")
    return place


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


@pytest.fixture
def items(tmp_path: Path) -> tuple[Labelled, ...]:
    return read_questions(lines(tmp_path), labelled=True).rows


def measured(scripted: Scripted, tmp_path: Path, book: Book, text: str | None = None) -> Pipeline:
    profile_file(scripted.pipeline(text or registry(), book), lines(tmp_path), None)
    return scripted.pipeline(text or registry(), book)


def fitted(pipeline: Pipeline, items: tuple[Labelled, ...], names: str = "all", most: int = 40) -> FittedMergers:
    profile, _ = find_profile(pipeline.registry)
    return fit_mergers(pipeline, profile, items, experts_of(pipeline, names), most=most)


def test_each_task_gets_the_expert_that_merges_it_best(
    scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]
) -> None:
    book = Book()
    found = fitted(measured(scripted, tmp_path, book), items)

    of = {one.task: one for one in found.choices}
    assert {task: (one.expert, one.own) for task, one in of.items() if task != ALL} == {
        "adding": ("sums", True),
        "taxes": ("law", True),
        "rare": ("law", False),
    }
    assert of[ALL].expert == "law" and of["adding"].rated == {"general": 0.0, "sums": 1.0, "law": 0.0}
    assert of["adding"].prompts + of["adding"].held == TASKS["adding"]
    assert (of["adding"].shown, of["adding"].low, of["adding"].high) == (1.0, 1.0, 1.0)
    assert len(book.merges) == 3 * sum(TASKS.values()), "every candidate merges every prompt"
    assert "too few prompts" in "\n".join(found.lines())


def test_a_prompt_holds_one_right_and_two_wrong_responses_in_any_order_and_all_are_asked_in_one_pass(
    scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]
) -> None:
    book = Book()
    pipeline = measured(scripted, tmp_path, book)
    before = len(scripted.engines)
    fitted(pipeline, items)

    places = set()
    for request in book.merges:
        text = text_of(request)
        number = int(text.splitlines()[-1].split()[1])
        said = [int(line.split()[2][:-1]) for line in text.splitlines() if line.startswith("It is ")]
        assert len(said) == 3 and said.count(number) == 1
        places.add(said.index(number))
    assert places == {0, 1, 2}
    assert len(scripted.engines) - before == 1, "one host, opened once"


def test_the_row_is_merged_by_the_choice_for_its_task_and_the_trace_says_who_and_why(
    scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]
) -> None:
    book = Book()
    fitted(measured(scripted, tmp_path, book), items)
    book.merges.clear()
    pipeline = scripted.pipeline(registry(), book)
    queries = [Query(task, f"{task} 200 {task} of {task} y", kind="number") for task in TASKS]
    state = asyncio.run(pipeline.astate(queries))

    assert [answer.text for answer in state.answers] == ["200", "200", "200"]
    assert {request.parent: request.arm for request in book.merges} == {"adding": "sums", "taxes": "law", "rare": "law"}
    told = [trace_of(state, row)["merge"] for row in range(3)]
    assert told[0]["by"] == "sums" and told[0]["chosen"].startswith("best for adding: it made a right answer on 100%")
    assert told[2]["chosen"].startswith("best over all tasks, as rare has only")
    assert "by       sums: best for adding" in drafts_text(trace_of(state, 0))
    assert "best for adding" in trace_page(trace_of(state, 0), state.route(0))


def test_the_judge_of_a_row_is_chosen_in_the_same_way(
    scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]
) -> None:
    book = Book()
    fitted(measured(scripted, tmp_path, book), items)
    state = asyncio.run(
        scripted.pipeline(registry("judge"), book).astate([Query("q", "adding 200 adding of adding y")])
    )

    told = trace_of(state, 0)["merge"]
    assert told["by"] == "sums" and told["chosen"].startswith("best for adding") and told["duels"]


def test_questions_that_cannot_be_used_are_left_out_and_counted(
    scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]
) -> None:
    class Sometimes(Book):
        """General writes nothing on small numbers, and is right on the tens."""

        def __call__(self, request: Request) -> str | Draft | Failure:
            number = int(text_of(request).splitlines()[-1].split()[1])
            if request.arm == "general" and request.role == "draft" and number < 110:
                return " "
            if request.arm == "general" and request.role == "draft" and number % 10 == 0:
                return str(number)
            return super().__call__(request)

    pipeline = measured(scripted, tmp_path, Sometimes())
    found = fitted(pipeline, tuple(item for item in items if item.question.id != "taxes-33"), "sums,law", most=20)

    assert found.left["a response is empty, cut off or failed"] >= 1
    assert found.left["it lacks two wrong responses"] == 6
    assert found.left["no label is at hand"] == 1


def test_without_a_choice_or_with_another_expert_than_was_chosen_by_the_run_is_refused(
    scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]
) -> None:
    book, query = Book(), Query("q", "adding 200 adding of adding y", kind="number")
    pipeline = measured(scripted, tmp_path, book)
    with pytest.raises(InputError, match="nobody has chosen who merges"):
        asyncio.run(pipeline.astate([query]))
    before = installed_sha(pipeline.registry)
    fitted(pipeline, items)
    assert installed_sha(pipeline.registry) != before, "a run that goes on with another merger would mix two"
    changed = scripted.pipeline(registry().replace("Judge.", "Think."), book)
    with pytest.raises(InputError, match="other weights or settings of law"):
        asyncio.run(changed.astate([query]))
    folder = mergers_folder(pipeline.registry)
    (folder / "mergers.json").write_text('{"choices": [], "prints": {}}')
    with pytest.raises(InputError, match="incomplete"):
        read_mergers(folder, {})


def test_what_cannot_be_fitted_is_told(scripted: Scripted, tmp_path: Path, items: tuple[Labelled, ...]) -> None:
    pipeline = measured(scripted, tmp_path, Book())
    with pytest.raises(InputError, match="no expert is called 'low'"):
        experts_of(pipeline, "sums,low")
    with pytest.raises(InputError, match="no prompt of one right and 2 wrong"):
        fitted(pipeline, ())
    with pytest.raises(InputError, match="too few to choose a merger by"):
        fitted(scripted.pipeline(registry(), Book()), items[:20])

    class Broken(Book):
        def __call__(self, request: Request) -> str | Draft | Failure:
            return Failure("refused", "out of order") if request.role == "merge" else super().__call__(request)

    with pytest.raises(InputError, match="out of order"):
        fitted(scripted.pipeline(registry(), Broken()), items)
    assert not mergers_folder(pipeline.registry).exists()


def test_a_run_counts_merges_and_those_that_were_skipped_with_why(
    scripted: Scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def same(request: Request) -> str:
        number = int(text_of(request).splitlines()[-1].split()[1])
        return str(number) if number % 2 or request.arm == "law" else str(number + len(request.arm))

    source = tmp_path / "questions.jsonl"
    rows = [{"id": str(i), "question": f"adding {i} adding", "kind": "number"} for i in range(10)]
    source.write_text("\n".join(map(json.dumps, rows)))
    done = run_file(scripted.pipeline(registry(by="law"), same), source, tmp_path / "answers.jsonl")
    again = run_file(scripted.pipeline(registry(by="law"), same), source, tmp_path / "answers.jsonl")

    assert done.merges == {"made": 5, "all drafts say the same": 5}
    assert again.merges == done.merges, "also what came from the store"
    tell(done, tmp_path / "answers.jsonl")
    assert "settled 5 questions after the drafts, skipped 5 (5: all drafts say the same)" in capsys.readouterr().err


def test_the_command_refuses_options_of_the_other_fit() -> None:
    for words in (["--mergers", "all", "--run-code"], ["--labelled", "x.jsonl"]):
        found = CliRunner().invoke(app, ["fit", "answers", *words])
        assert found.exit_code != 0


def test_a_choice_that_is_no_better_than_luck_is_told_to_be_left_out() -> None:
    luck = Merger("adding", "law", 0.3, 40, {"law": 0.3, "sums": 0.1}, 0, None, None, None)
    told = "\n".join(FittedMergers((luck, replace(luck, task="law", rated={"law": 0.9})), {}).lines())
    assert told.count("leave the merger out") == 1
