"""`coe eval retrieval`: the packaged encoder and a real index, with a scripted reader that finds what is in its prompt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from composer.config import load_settings, packaged_registry
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.errors import InputError
from composer.registry.experts import Registry
from composer.retrieval.choosing import SETTINGS
from composer.types import Draft, Request, Usage
from evals.reading import run
from evals.retrieval import RetrievalReport, corpora, evaluate, gate_table, verdict, with_reader
from evals.tasks.passages.invented import generate

CORPUS = generate(240)
ANSWERS = {item.question.id: item.answer for item in CORPUS.items if item.question.id in CORPUS.relevant}


def answer(request: Request) -> Draft:
    """Right if its answer stands in what it is given to read, else a number of its own."""
    text = request.streams[0].prompt[-1].content  # type: ignore[union-attr]
    right = ANSWERS.get(request.parent or "", "")
    read = text.rpartition("\n\n")[0]
    said = right if right and re.search(rf"\b{re.escape(right)}\b", read) else str(len(text) + request.sample)
    usage = Usage(len(text.split()), 3, seconds=0.01 * len(text.split()))
    return Draft("", said, "stop", usage)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> RetrievalReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "engine", lambda *_: scripted())
        settings = with_reader(load_settings(packaged_registry()))
        folder = tmp_path_factory.mktemp("retrieval")
        return evaluate(settings, CORPUS, "reader", folder, offline=False, say=lambda _: None)


def scripted() -> Engine:
    return ScriptedEngine(answer)


def test_there_is_a_row_of_every_gate_at_every_value(report: RetrievalReport) -> None:
    found = {(row.gate, row.share) for row in report.rows}
    gates = {"never", "always", "entropy", "neighbours", "worth", "worth-drafts", "random", "oracle"}
    assert found == {(gate, share) for gate in gates | {"self-consistency", "majority of all"} for share in SETTINGS}
    assert {row.group for row in report.rows} == {"invented"}
    assert {row.n for row in report.rows} == {120}
    assert {row.gate for row in report.rows if row.chosen} == {report.chosen}


def test_utility_is_value_of_right_answers_less_what_reading_costs(report: RetrievalReport) -> None:
    for row in report.rows:
        if row.gate in ("never", "always", "oracle", "random", "worth"):
            assert row.utility == pytest.approx(
                row.value * row.accuracy - row.retrieved * report.costs.reading, abs=0.01 * row.value
            )
    by = {(row.gate, row.share): row for row in report.rows}
    for share in SETTINGS:
        assert (
            by["oracle", share].utility >= max(by[gate, share].utility for gate in ("never", "always", "worth")) - 1e-3
        )
        assert by["always", share].retrieved == 1
        assert by["never", share].read == 0
    assert by["always", 0.5].read > 50, "three passages of some forty tokens, in words here"
    assert by["worth", 0.5].read < by["always", 0.5].read


def test_the_chosen_gate_earns_more_than_both_where_half_is_covered(report: RetrievalReport) -> None:
    chosen = [row for row in report.rows if row.chosen]
    middle = [row for row in chosen if 0.25 <= row.share <= 0.75]
    assert all(row.to_constant[1] > 0 for row in middle), [(row.share, row.to_constant) for row in middle]
    assert not [row for row in chosen if row.to_constant[2] < 0]
    told = "\n".join([*gate_table(report), *verdict(report)])
    assert f"{report.chosen} *" in told
    assert "above both at 11 of the 11 middle ones" in told


def test_a_corpus_that_is_missing_or_misspelt_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    both = ("invented", "strategyqa")
    assert [corpus.name for corpus in corpora(tmp_path, both, 160, said.append, strict=False)] == ["invented"]
    assert "strategyqa is left out" in said[0]
    with pytest.raises(InputError, match="COE_DATA"):
        list(corpora(None, ("strategyqa",), 160, said.append, strict=True))
    with pytest.raises(InputError, match="nothing is called 'strategy' here"):
        list(run(None, "strategy", 160, None, offline=False, say=said.append))
