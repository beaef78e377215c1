"""Profiles: measured through the pool, merged cell by cell, lost where an expert has become another, and reported."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from profile_kit import ENCODER, ITEMS, PRINTS, ROWS, cells, measured, right

from composer.config import load_settings
from composer.errors import ConfigError, EngineError
from composer.jsonl import RowError
from composer.profile import EMPTY, Profile
from composer.profiling import Report
from composer.registry.experts import Registry
from composer.types import Draft, Failure, Request, Sampling
from routers.types import Arm


async def test_every_arm_is_graded_on_every_question(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)

    assert cells(profile) == {(q, arm): float(arm == "sums") for q in "abc" for arm in ("sums", "law")}
    first, *_, last = profile.table.to_pylist()
    assert (first["skill"], first["split"], first["answer"], first["length"]) == ("sums", "profile", "2", 16)
    assert (last["skill"], last["split"], last["answer"]) == ("unlabelled", "profile", None)
    assert (profile.encoder, profile.arms, profile.known) == (ENCODER, PRINTS, {"sums", "law"})


async def test_routers_get_columns_and_outcomes_of_the_wanted_splits(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)

    questions, rows = profile.columns(("profile",))
    outcomes = profile.outcomes(questions, [Arm("law"), Arm("sums")])

    assert (questions.ids, questions.skills, rows) == (("a", "c"), (("sums",), ("unlabelled",)), [0, 2])
    assert np.array_equal(questions.vectors, ROWS[[0, 2]])
    assert np.array_equal(outcomes.matrix(2), [[0, 1], [0, 1]])
    assert np.isnan(outcomes.cost).all()


async def test_a_failed_call_leaves_its_cell_unobserved(tmp_path: Path) -> None:
    def answer(request: Request) -> str | Failure:
        failing = request.arm == "law" or request.parent == "b"
        return Failure("timeout", "too slow") if failing else right(request)

    profile = await measured(tmp_path, answer)

    assert cells(profile) == {("a", "sums"): 1.0, ("c", "sums"): 1.0}
    assert np.array_equal(profile.vectors, ROWS[[0, 2]])
    assert profile.known == {"sums"}


async def test_a_draft_that_was_cut_off_scores_nothing_though_it_says_the_answer(tmp_path: Path) -> None:
    profile = await measured(tmp_path, lambda _: Draft("", "The answer is 2.", "length"), ITEMS[:1])

    assert cells(profile) == {("a", "sums"): 0.0, ("a", "law"): 0.0}


async def test_all_calls_failing_is_an_error_with_the_first_reason(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"all 6 calls failed; the first: too slow"):
        await measured(tmp_path, lambda _: Failure("timeout", "too slow"))


async def test_plus_takes_the_new_value_of_a_cell_that_both_know(tmp_path: Path) -> None:
    old = await measured(tmp_path, lambda _: "0", ITEMS[:2])
    new = replace(await measured(tmp_path / "other", right, ITEMS[1:], ["sums"]), vectors=-ROWS[1:])

    both = old.plus(new)

    assert cells(both) == {
        ("a", "sums"): 0.0,
        ("a", "law"): 0.0,
        ("b", "sums"): 1.0,
        ("b", "law"): 0.0,
        ("c", "sums"): 1.0,
    }
    assert both.arms == PRINTS
    questions, _ = both.columns()
    expected = {"a": ROWS[0], "b": -ROWS[1], "c": -ROWS[2]}
    assert all(np.array_equal(v, expected[q]) for q, v in zip(questions.ids, questions.vectors, strict=True))


async def test_plus_the_empty_profile_changes_nothing(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)

    assert cells(EMPTY.plus(profile)) == cells(profile)
    assert np.array_equal(EMPTY.plus(profile).vectors, profile.vectors)
    assert EMPTY.plus(EMPTY).known == set()


async def test_the_records_of_arms_that_changed_are_left_out(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right, arms=["sums"])
    profile = profile.plus(await measured(tmp_path, right, ITEMS[:1], ["law"]))

    kept, stale = profile.without_stale({"sums": "another", "law": "p2"})
    same, none = profile.without_stale({**PRINTS, "new": "p3"})

    assert (kept.known, stale, dict(kept.arms)) == ({"law"}, ("sums",), {"law": "p2"})
    assert np.array_equal(kept.vectors, ROWS[:1])
    assert (same, none) == (profile, ())


async def test_a_record_without_a_print_proves_nothing(tmp_path: Path) -> None:
    profile = replace(await measured(tmp_path, right), arms={"sums": "p1"})

    kept, stale = profile.without_stale(PRINTS)

    assert (kept.known, stale) == ({"sums"}, ("law",))


async def test_vectors_of_two_lengths_do_not_become_one_profile(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)

    with pytest.raises(ConfigError, match="vectors of 3 and of 2 numbers"):
        profile.plus(replace(profile, vectors=profile.vectors[:, :2]))


REGISTRY = f"""\
models:
  small: {{sources: [small.gguf], sha256: {"a" * 64}}}
  plain: {{sources: [plain.gguf], sha256: {"b" * 64}}}
experts:
  general: {{model: small, system: Be brief.}}
  law: {{model: small, adapter: {{path: law.gguf, sha256: {"c" * 64}}}, sampling: {{temperature: 0.5}}}}
  poet: {{model: plain}}
"""


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("a" * 64, "d" * 64, {"general", "law"}),
        ("c" * 64, "d" * 64, {"law"}),
        ("small: {", "small: {template: chat.jinja, ", {"general", "law"}),
        ("temperature: 0.5", "temperature: 0.6", {"law"}),
        ("temperature: 0.5", "temperature: 0.5, max_tokens: 9", {"law"}),
        ("Be brief.", "Be long.", {"general"}),
        ("plain: {", "plain: {completion: true, ", {"poet"}),
        ("small: {", "small: {context: 4096, memory: 1GiB, slots: 2, ", set()),
        ("temperature: 0.5", "temperature: 0.5, top_p: 1.0", set()),
    ],
)
def test_a_record_is_lost_only_by_what_makes_another_expert_of_it(
    tmp_path: Path, old: str, new: str, changed: set[str]
) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    (tmp_path / "experts.yaml").write_text(REGISTRY)
    before = Registry(load_settings(tmp_path / "experts.yaml")).prints()

    (tmp_path / "experts.yaml").write_text(REGISTRY.replace(old, new))
    after = Registry(load_settings(tmp_path / "experts.yaml")).prints()

    assert {arm for arm in before if before[arm] != after[arm]} == changed
    assert len(set(before.values())) == 3


def test_no_record_is_lost_by_another_release_of_the_engine_or_by_a_setting_that_nobody_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, slots=True)
    class Wider(Sampling):
        beams: int = 1

    (tmp_path / "experts.yaml").write_text(REGISTRY)
    settings = load_settings(tmp_path / "experts.yaml")
    before = Registry(settings).prints()
    wider = {
        name: replace(expert, sampling=Wider(**asdict(expert.sampling))) for name, expert in settings.experts.items()
    }
    real = Registry.fingerprint
    monkeypatch.setattr(Registry, "fingerprint", lambda self, name: replace(real(self, name), engine="llamacpp 99"))

    assert Registry(replace(settings, experts=wider)).prints() == before


async def test_a_report_shows_the_share_of_right_answers(tmp_path: Path) -> None:
    errors = (RowError(3, "not JSON", "{"),)
    report = Report(await measured(tmp_path, right), Path("folder"), errors, 2, 1, cut=4, held_out=5, notes=("Oh.",))

    head, first, second, *rest = report.lines()

    assert head.split() == ["skill", "n", "law", "sums"]
    assert first.split() == ["sums", "2", "0.00", "1.00"]
    assert second.split() == ["unlabelled", "1", "0.00", "1.00"]
    assert rest[0] == "written to folder (2 drafts came from the store)"
    assert rest[1].startswith("4 replies were cut off")
    assert rest[2].startswith("1 calls failed")
    assert rest[3].startswith("5 rows of the split `test` were not asked")
    assert rest[4:] == ["Oh.", "left out: line 3: not JSON"]


def test_two_files_may_give_one_id_to_different_questions() -> None:
    def one(text: str, score: float) -> Profile:
        row = {"question": "1", "text": text, "skill": "s", "split": "profile", "arm": "a", "score": score}
        table = pa.Table.from_pylist([row | {"answer": None, "length": 1}], schema=EMPTY.table.schema)
        return Profile(table, np.full((1, 2), score, dtype=np.float32), "e", {"a": "print"})

    both = one("What is 1 + 1?", 1.0).plus(one("Sort: b, a", 0.0)).plus(one("Sort: b, a", 0.5))

    questions, _ = both.columns()
    assert questions.text == ("What is 1 + 1?", "Sort: b, a")
    assert len(set(questions.ids)) == 2
    assert both.table["score"].to_pylist() == [1.0, 0.5]
