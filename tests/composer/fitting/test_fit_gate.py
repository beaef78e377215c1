"""`coe fit gate`: questions asked both ways by scripted experts, one of whom can only read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.answers.extract import words
from composer.errors import InputError
from composer.fitting.gate import Weighed, default_value, fit_gates, pairs_of
from composer.pipeline import Pipeline
from composer.places import gates_folder
from composer.profile import find_profile
from composer.profiling import profile_file
from composer.retrieval.build import build
from composer.state import Query
from composer.types import Draft, Request, Usage
from routers.testing import HashEncoder
from tests.composer.scripted import THREE, Scripted

REGISTRY = (
    f"{THREE}evidence:\n  notes: {{index: ./notes, k: 1, experts: [general]}}\n"
    "pipeline:\n  - use: decide\n  - {use: retrieve, options: {gate: auto, value: 4.0}}\n"
    "  - use: generate\n  - use: verify\n  - use: aggregate\n"
)
SECONDS_A_WORD = 0.1
MANY = 240


def name(place: int) -> str:
    return f"{'bcdfgklm'[place % 8]}{'aeiou'[place // 8 % 5]}{'nrst'[place // 40 % 4]}{'oa'[place // 160]}x"


def answer(request: Request) -> Draft:
    """Knows nothing by itself, and finds a number in what it is given to read about the name it is asked for."""
    prompt = request.streams[0].prompt
    text = prompt if isinstance(prompt, str) else prompt[-1].content
    read, _, question = text.rpartition("\n\n")
    asked = words(question)[4]
    found = [line for line in read.splitlines() if f"of {asked} is" in line]
    said = found[0].split()[-1].strip(".") if found else "unknown"
    usage = Usage(tokens_in=len(text.split()), tokens_out=1, seconds=SECONDS_A_WORD * len(text.split()))
    return Draft("", said, "stop", usage)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    source = tmp_path / "sources"
    source.mkdir()
    for place in range(0, MANY, 2):  # every other one is covered
        (source / f"{place}.txt").write_text(f"The code of {name(place)} is {1000 + place}.", encoding="utf-8")
    build(source, tmp_path / "project" / "notes", HashEncoder(), lambda texts: [[len(text)] for text in texts])
    return Scripted(tmp_path, monkeypatch)


def rows(tmp_path: Path, many: int = MANY) -> Path:
    place = tmp_path / "labelled.jsonl"
    told = [
        {"id": str(i), "question": f"What is the code {name(i)} has?", "answer": str(1000 + i)} for i in range(many)
    ]
    place.write_text("\n".join(map(json.dumps, told)), encoding="utf-8")
    return place


def measured(scripted: Scripted, tmp_path: Path, many: int = MANY) -> Pipeline:
    profile_file(scripted.pipeline(REGISTRY, answer), rows(tmp_path, many), None, only=["general", "general+notes"])
    return scripted.pipeline(REGISTRY, answer)


def fitted(pipeline: Pipeline, value: float = 4.0, **more: object) -> Weighed:
    profile, _ = find_profile(pipeline.registry)
    (one,) = fit_gates(pipeline, profile, value=value, drafts=False, **more)  # type: ignore[arg-type]
    return one


def test_a_gate_that_earns_more_than_never_and_always_is_installed_and_decides(
    scripted: Scripted, tmp_path: Path
) -> None:
    pipeline = measured(scripted, tmp_path)
    found = fitted(pipeline)
    assert found.questions == MANY
    assert found.installed == found.tested
    assert found.installed in ("worth", "neighbours")
    assert found.difference[1] > 0
    assert found.costs.reading == pytest.approx(SECONDS_A_WORD * 28, abs=0.1), "the words of one passage and its frame"
    covered, other = pipeline.run(
        [Query("a", f"What is the code {name(4)} has?"), Query("b", f"What is the code {name(5)} has?")]
    )
    assert (covered.chosen, covered.text) == ("general+notes", "1004")
    assert (other.chosen, other.text) == ("general", "unknown")
    text = "\n".join(found.lines())
    assert "installed: worth" in text or "installed: neighbours" in text
    assert "held-out questions" in text


def test_where_reading_is_nearly_free_always_is_as_good_and_stays(scripted: Scripted, tmp_path: Path) -> None:
    found = fitted(measured(scripted, tmp_path), value=1e6)
    assert found.constant == "always"
    assert found.installed == "always" or found.difference[1] > 0


def test_the_report_is_a_curve_over_the_value_and_foretells_traffic(scripted: Scripted, tmp_path: Path) -> None:
    pipeline = measured(scripted, tmp_path)
    traffic = [Query(f"t{i}", f"What is the code {name(i)} has?") for i in range(0, MANY, 2)]
    found = fitted(pipeline, traffic=traffic)
    gate, never, always = (found.curves[one] for one in ("gate", "never", "always"))
    assert [point.value for point in gate] == sorted([point.value for point in gate], reverse=True)
    assert {point.read for point in never} == {0.0}
    assert {point.saved for point in never} == {1.0}
    assert {point.read for point in always} == {1.0}
    assert always[0].right == pytest.approx(0.5, abs=0.15)
    near = min(found.traffic, key=lambda point: abs(point.value - 4.0))
    assert near.read > 0.8, "all of them are covered"
    assert near.always > 0.7 > 0.3 > near.never
    assert near.right == pytest.approx(near.always, abs=0.1)


def test_what_is_missing_is_told(scripted: Scripted, tmp_path: Path) -> None:
    pipeline = scripted.pipeline(REGISTRY, answer)
    profile, _ = find_profile(pipeline.registry)
    with pytest.raises(InputError, match=r"ask both ways: coe fit gate labelled\.jsonl"):
        pairs_of(pipeline, profile)
    bare = scripted.pipeline(THREE, answer, project="bare")
    with pytest.raises(InputError, match="given anything to read"):
        pairs_of(bare, profile)
    few = measured(scripted, tmp_path, 40)
    with pytest.raises(InputError, match="of 30 are held out"):
        fitted(few)
    assert not gates_folder(few.registry).exists()


def test_the_value_is_that_of_the_stage(scripted: Scripted) -> None:
    assert default_value(scripted.pipeline(REGISTRY, answer)) == 4.0
    assert default_value(scripted.pipeline(THREE, answer, project="bare")) == 60.0
