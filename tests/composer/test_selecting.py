"""A few experts of many: solvers that differ are chosen, duplicates are not, and those are offered as one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from composer.cli import app
from composer.config import PACKAGED, load_settings
from composer.errors import InputError
from composer.jsonl import Labelled, Question
from composer.pipeline import Pipeline
from composer.reasoning import Followed, summed, target_of
from composer.registry.experts import Registry
from composer.selecting import Judged, choose, correlation, distances, judged, lines, quality_of, select
from composer.types import Draft, Failure, TokenLogprob

NONE = np.ones((4, 4))


def test_a_duplicate_of_the_best_is_not_chosen_and_a_bad_expert_is_not_either() -> None:
    quality = np.array([1.0, 0.95, 0.7, 0.1])  # the best, its duplicate, another solver, a guesser
    apart = np.array([[0, 0, 0.9, 1], [0, 0, 0.9, 1], [0.9, 0.9, 0, 1], [1, 1, 1, 0.0]])

    assert choose(quality, apart, 2) == [0, 2]
    assert choose(quality, apart, 2, diversity=0) == [0, 1]
    assert choose(quality, apart, 3) == [0, 1, 2] or choose(quality, apart, 3) == [0, 2, 3]


def test_many_sets_are_built_up_from_the_best_and_few_are_all_looked_at() -> None:
    rng = np.random.default_rng(0)
    quality, apart = rng.random(60), rng.random((60, 60))
    apart = (apart + apart.T) / 2

    chosen = choose(quality, apart, 20)

    assert len(set(chosen)) == 20 and int(np.argmax(quality)) in chosen
    assert choose(quality, apart, 1) == [int(np.argmax(quality))]


def test_those_alike_are_offered_as_one_by_how_often_each_is_the_best() -> None:
    scores = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, np.nan]])
    quality = np.array([1.0, 0.7, 0.5, 0.0])

    found = {one.name: one for one in judged(["a", "b", "c", "d"], scores, quality, [0, 2], NONE)}

    b, d = found["b"], found["d"]
    assert (b.like, b.chosen) == ("a", False) and b.correlation == pytest.approx(2 / 3)
    assert b.weights == pytest.approx((1 / 3, 2 / 3))  # best on 1 of its questions, the other on 2
    assert d.weights is None and found["a"].like is None
    assert "coe experts add --sum a=0.67,b=0.33" in "\n".join(lines(list(found.values())))


def test_what_cannot_be_mixed_is_not_offered() -> None:
    scores = np.array([[1, 1], [0, 0.0]])

    [_, other] = judged(["a", "b"], scores, np.array([1.0, 1.0]), [0], np.zeros((2, 2)))

    assert (other.like, other.weights) == (None, None)


def test_correlation_of_what_never_changes_is_none() -> None:
    assert correlation(np.array([1.0, 1, 1]), np.array([1.0, 0, 1])) == 0
    assert correlation(np.array([1.0, 0, np.nan]), np.array([1.0, 0, 1])) == pytest.approx(1)


def test_adapters_differ_by_what_they_change_and_models_by_what_they_answer(packaged: Registry) -> None:
    names = ["general", "arithmetic", "units"]

    found = distances(packaged, names, [{"q": "1", "r": "2"}, {"q": "1", "r": "3"}, {"q": "4", "r": "3"}])

    assert (found == found.T).all() and found[0].tolist() == [0, 0.5, 1]
    assert 0.5 < found[1, 2] < 1.5  # two trainings have little in common


def test_the_real_solver_is_chosen_by_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in (PACKAGED / "items.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["task"] == "sorting"][:5]
    Path("few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))

    done = CliRunner().invoke(app, ["experts", "select", "--data", "few.jsonl", "--keep", "1", "--json"])

    found = json.loads(done.stdout)
    assert "no row has a `rationale`: ranked by right answers alone" in done.stderr
    assert found[0]["name"] == "sorting" and [one["chosen"] for one in found] == [True, False, False, False, False]
    assert found[0]["right"] > max(one["right"] for one in found[1:])


@pytest.mark.parametrize("keep", [0, 5])
def test_a_choice_of_all_or_none_is_refused(tmp_path: Path, keep: int) -> None:
    with pytest.raises(InputError, match="of 5 experts is no choice"):
        select(Pipeline.from_file(None), tmp_path / "none.jsonl", keep)


# METHODS H's own test. The numbers are simulated: five questions whose answer is always (B).
SIMULATED = {  # right answers of five, bits per character of the rationales
    "guesser-1": (5, 2.1),  # always says B, and expects no reason for it
    "guesser-2": (5, 1.9),
    "solver-1": (5, 0.6),
    "copy-of-1": (5, 0.6),
    "solver-2": (4, 0.7),
    "weak": (1, 1.4),
    "weaker": (0, 1.5),
}


def simulated(*, reasons: bool) -> tuple[list[str], np.ndarray]:
    names = list(SIMULATED)
    right = np.array([share / 5 for share, _ in SIMULATED.values()])
    figures = [Followed(2**bits, bits) if reasons else None for _, bits in SIMULATED.values()]
    return names, quality_of(right, figures)


def test_simulated_right_answers_alone_admit_guessers_and_reasons_reject_them() -> None:
    names, blind = simulated(reasons=False)
    _, seeing = simulated(reasons=True)
    same = np.zeros((len(names), len(names)))

    assert [names[i] for i in choose(blind, same, 2, diversity=0)] == ["guesser-1", "guesser-2"]
    assert {names[i] for i in choose(seeing, same, 3, diversity=0)} == {"solver-1", "copy-of-1", "solver-2"}


def test_simulated_diversity_rejects_the_duplicate() -> None:
    names, quality = simulated(reasons=True)
    apart = 1 - np.eye(len(names))
    apart[2, 3] = apart[3, 2] = 0

    assert {names[i] for i in choose(quality, apart, 2)} == {"solver-1", "solver-2"}


def labelled(rationale: str | None, answer: str = "B") -> Labelled:
    return Labelled(Question("1", "Which?", (), "text", 1), answer, None, None, rationale)


@pytest.mark.parametrize(
    ("rationale", "answer", "target"),
    [
        (None, "B", None),
        ("Ice melts.", "B", "Ice melts.\nAnswer: B"),
        ("Ice melts.\nAnswer: B", "B", "Ice melts.\nAnswer: B"),
        ("12 + 30 = 42.", "42", "12 + 30 = 42."),
        ("12 + 30 = 42.", "2", "12 + 30 = 42.\nAnswer: 2"),
    ],
)
def test_what_is_scored_is_the_rationale_and_the_answer_once(
    rationale: str | None, answer: str, target: str | None
) -> None:
    assert target_of(labelled(rationale, answer)) == target


def scored(*logprobs: float) -> Draft:
    return Draft("", "text", "stop", logprobs=tuple(TokenLogprob("t", logprob) for logprob in logprobs))


def test_only_rows_that_all_have_scored_count_and_the_rest_is_said() -> None:
    failure = Draft("", "", "error", error=Failure("unsupported", "it scores no given text"))
    drafts = {
        "a": {0: scored(-1.0, -1.0), 1: scored(-9.0)},
        "b": {0: scored(-0.5), 1: failure},
        "far": {0: failure, 1: failure},
    }

    found = summed({0: "four", 1: "five5"}, drafts, 3)

    assert found.experts["a"] == Followed(pytest.approx(np.e), pytest.approx(2 / np.log(2) / 4))
    assert found.experts["b"].bits == pytest.approx(0.5 / np.log(2) / 4) and "far" not in found.experts
    assert found.notes == (
        "reasoning perplexity over 1 of 3 rows; 1 have no rationale, and count by right answers alone;"
        " 1 could not be scored by all",
        "far is ranked by right answers alone: it scores no given text",
    )


WORDS = ["apple", "ball", "cat", "door", "egg"]
ORDERS = ["egg, apple, door, ball, cat", "ball, egg, cat, apple, door", "door, cat, egg, ball, apple"]
ORDERS += ["cat, door, apple, egg, ball", "apple, egg, ball, door, cat"]


def bank(folder: Path) -> Path:
    """The packaged registry with a guesser, whose answer is right by luck, a copy of the solver, and a kin of it. One slot: who
    shares a step of llama.cpp changes the last bits of logits, and so, once in a while, what the kin writes."""
    packaged = (Path(PACKAGED).parents[1] / "experts.yaml").read_text()
    lucky = json.dumps({"const": ", ".join(WORDS)})
    [row] = [row for name, row in YAML().load(packaged)["experts"].items() if name == "sorting"]
    spec = json.dumps(dict(row["adapter"]))
    rows = [
        f"  guesser: {{model: smollm2, sampling: {{schema: '{lucky}'}}, answers: list}}",
        "  kin: {model: smollm2, adapter: {sum: {sorting: 0.9, units: 0.4}}, answers: list}",
        f"  copy: {{model: smollm2, adapter: {spec}, answers: list}}",
    ]
    text = packaged.replace("\nexperts:\n", "\nexperts:\n" + "\n".join(rows) + "\n", 1)
    text = text.replace("    context: 2048\n", "    context: 2048\n    slots: 1\n", 1)
    (folder / "experts.yaml").write_text(text)
    return folder / "experts.yaml"


def test_of_real_experts_a_guesser_is_told_from_solvers_by_reasons_and_a_copy_by_what_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(bank(tmp_path))
    plain = [
        {"id": str(i), "question": f"Sort these words in alphabetical order: {order}", "answer": ", ".join(WORDS)}
        for i, order in enumerate(ORDERS)
    ]
    reasoned = [row | {"rationale": ", ".join(WORDS)} for row in plain]
    for name, rows in (("plain", plain), ("reasoned", reasoned)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row | {"kind": "list"}) + "\n" for row in rows))
    store = tmp_path / "drafts.sqlite"

    def chosen(name: str, keep: int, diversity: float) -> tuple[list[str], dict[str, Judged]]:
        found = select(Pipeline(settings, store=store), Path(f"{name}.jsonl"), keep, diversity=diversity)
        return sorted(one.name for one in found.experts if one.chosen), {one.name: one for one in found.experts}

    blind, by_answers = chosen("plain", 3, 0.0)
    seeing, by_reasons = chosen("reasoned", 3, 0.0)
    apart, _ = chosen("reasoned", 2, 0.5)

    assert [by_answers[name].right for name in ("guesser", "sorting", "copy", "kin")] == [1, 1, 1, 1]
    assert "guesser" in blind
    assert seeing == ["copy", "kin", "sorting"]
    assert len({"copy", "sorting"} & set(apart)) == 1 and "guesser" not in apart
    told = {name: one.bits for name, one in by_reasons.items()}
    assert all(bits is not None for bits in told.values())
    assert (told["guesser"] or 0) > 2 * (told["sorting"] or 9)
