"""coe fit answers --scorer: what is drawn and rated, what is installed and used, and what is refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from composer.answers.capabilities import CAPABILITIES
from composer.cli import app
from composer.errors import InputError
from composer.fitting.scorer import fit_scorer
from composer.installed import installed_sha
from composer.jsonl import Labelled, read_questions
from composer.places import scorers_folder
from composer.records.scorer import read_scorers
from composer.state import Query
from composer.traced import trace_of
from composer.types import Failure, Request
from tests.composer.scripted import Scripted
from tests.composer.stages.settling import registry, shown

TEXT = registry("use: score, options: {by: law}") + (
    f"encoder: {{sources: [encoder.onnx], sha256: {'e' * 64}, tokenizer: tokenizer.json}}\n"
)
NUMBER = CAPABILITIES["number"]


def n_of(request: Request) -> int:
    return int(shown(request).split("What is ")[1].split()[0])


def drafted(request: Request) -> str:
    """Of every three questions each expert knows one."""
    place = ("general", "sums", "law").index(request.arm)
    return f"It is {n_of(request)}." if n_of(request) % 3 == place else f"It is {n_of(request) + 1000}."


def last_tells(request: Request) -> str:
    """Only the last capability question tells right from wrong; the others prefer the wrong ones."""
    if request.role != "score":
        return drafted(request)
    right = f"It is {n_of(request)}." in shown(request)
    last = NUMBER[-1] in shown(request)
    return "5" if right == last else "2" if last else "3" if right else "4"


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


@pytest.fixture
def items(tmp_path: Path) -> tuple[Labelled, ...]:
    rows = [
        {"id": f"q{n}", "question": f"What is {n} plus {'nothing ' * (n % 7)}?", "answer": str(n), "kind": "number"}
        for n in range(1, 221)
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_questions(path, labelled=True).rows


def test_what_orders_pairs_better_is_installed_and_used(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    asked: list[Request] = []

    def say(request: Request) -> str:
        asked.append(request)
        return last_tells(request)

    pipeline = scripted.pipeline(TEXT, say)
    before = installed_sha(pipeline.registry)
    found = fit_scorer(pipeline, "law", items)

    assert found.installed and found.accuracy == 1.0 and found.plain < 0.6
    assert installed_sha(pipeline.registry) != before, "a run that goes on with another score would mix two"
    assert found.questions == 220 and 30 <= found.held <= 44
    assert len([request for request in asked if request.role == "score"]) == 220 * 2 * len(NUMBER)
    assert list(found.lines())[-1] == "installed"
    again = scripted.pipeline(TEXT, last_tells)
    state = asyncio.run(again.astate([Query("new", "What is 1002 plus zero?", kind="number")]))
    told = trace_of(state, 0)["merge"]
    assert state.answers[0].text == "1002" and "note" not in told


def test_what_is_drawn_is_looked_up_first(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    fit_scorer(scripted.pipeline(TEXT, last_tells), "law", items)
    scripted.engines.clear()
    fit_scorer(scripted.pipeline(TEXT, last_tells), "law", items)

    assert scripted.engines == [], "every draft and rating was in the store"


def test_what_is_not_better_is_not_installed_and_removes_what_was(
    scripted: Scripted, items: tuple[Labelled, ...]
) -> None:
    pipeline = scripted.pipeline(TEXT, last_tells)
    assert fit_scorer(pipeline, "law", items).installed

    def fair(request: Request) -> str:
        """Every question tells them apart: the mean is as good as it gets."""
        return (
            drafted(request) if request.role != "score" else "5" if f"It is {n_of(request)}." in shown(request) else "1"
        )

    (scripted.folder / "drafts.sqlite").unlink()
    again = scripted.pipeline(TEXT, fair)
    found = fit_scorer(again, "law", items)

    assert not found.installed and found.difference == (0, 0, 0) and found.plain == 1.0
    assert "nothing is installed" in list(found.lines())[-1]
    assert read_scorers(scorers_folder(again.registry), again.registry.prints()) == ({}, [])


def test_what_cannot_be_tested_is_refused(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    with pytest.raises(InputError, match="too few to test a scorer on"):
        fit_scorer(scripted.pipeline(TEXT, last_tells), "law", items[:60])
    with pytest.raises(InputError, match="no expert is called 'nobody'"):
        fit_scorer(scripted.pipeline(TEXT, last_tells), "nobody", items)


def test_many_failed_ratings_are_refused(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    def broken(request: Request) -> str | Failure:
        return Failure("refused", "out of order") if request.role == "score" else drafted(request)

    with pytest.raises(InputError, match="ratings failed: out of order"):
        fit_scorer(scripted.pipeline(TEXT, broken), "law", items)


def test_a_damaged_record_is_refused_by_its_file(scripted: Scripted, items: tuple[Labelled, ...]) -> None:
    pipeline = scripted.pipeline(TEXT, last_tells)
    fit_scorer(pipeline, "law", items)
    file = scorers_folder(pipeline.registry) / "scorers.json"
    file.write_text(file.read_text().replace('"weights"', '"waits"'))

    with pytest.raises(InputError, match="cannot be used"):
        read_scorers(scorers_folder(pipeline.registry), pipeline.registry.prints())
    file.write_text("[]")
    assert read_scorers(scorers_folder(pipeline.registry), pipeline.registry.prints()) == ({}, [])


def test_the_command_takes_a_file_of_ones_own_and_prints_what_was_found(
    scripted: Scripted, items: tuple[Labelled, ...], tmp_path: Path
) -> None:
    pipeline = scripted.pipeline(TEXT, last_tells)
    command = ["fit", "answers", "--scorer", "law", "--runs", str(tmp_path / "labelled.jsonl"), "--config"]
    command.append(str(pipeline.settings.path))

    text, data = CliRunner().invoke(app, command), CliRunner().invoke(app, [*command, "--json"])

    assert (text.exit_code, data.exit_code) == (0, 0), text.output
    assert text.stdout.splitlines()[-1] == "installed" and "on 44 held-out questions" in text.stdout
    assert json.loads(data.stdout)["installed"] is True
    refused = CliRunner().invoke(app, [*command, "--data", str(tmp_path)])
    assert isinstance(refused.exception, InputError) and "no drafts that could be rated" in str(refused.exception)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--mergers", "all"], "--scorer and --mergers learn different things"),
        (["--plans", "x.jsonl"], "--scorer and --plans learn different things"),
        (["--labelled", "x.jsonl"], "--scorer does nothing with --labelled"),
        (["--leave-one-out"], "--scorer does nothing with --leave-one-out"),
    ],
)
def test_what_the_command_would_pass_over_in_silence_is_refused(more: list[str], why: str) -> None:
    refused = CliRunner().invoke(app, ["fit", "answers", "--scorer", "law", *more])

    assert isinstance(refused.exception, InputError) and why in str(refused.exception)
