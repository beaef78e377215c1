"""Profiles: measured through the pool, merged cell by cell, kept as one folder, and refused where they do not fit."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from crashes import crash_at

from composer.config import load_settings
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.errors import ConfigError, EngineError, InputError
from composer.jsonl import Labelled, Question, RowError
from composer.places import user_folder
from composer.pool.pool import Pool
from composer.profile import (
    EMPTY,
    MANIFEST,
    OUTCOMES,
    VECTORS,
    Profile,
    find_profile,
    measure,
    read_profile,
    write_profile,
)
from composer.profiling import Report
from composer.registry.experts import Registry
from composer.store import DraftStore
from composer.types import Draft, Failure, Fingerprint, Host, Kind, Prompt, Request, Sampling, Stream, Usage
from routers.types import Arm

ENCODER = "e" * 64
PRINTS = {"sums": "p1", "law": "p2"}
Say = Callable[[Request], str | Draft | Failure]


class Fake:
    """Two arms on one host; what stages and what the pool ask of a registry."""

    generalist = "law"

    def __init__(self, answer: Say) -> None:
        self.answer = answer

    def arms(self) -> tuple[Arm, ...]:
        return (Arm("sums"), Arm("law"))

    def stream(self, arm: str, prompt: Prompt, *, bare: bool = False) -> Stream:
        return Stream(arm, prompt)

    def sampling(self, arm: str) -> Sampling:
        return Sampling()

    def messages(self, arm: str, text: str) -> Prompt:
        return text

    def kind(self, arm: str) -> Kind:
        return "text"

    def strategy(self, arm: str) -> None:
        return None

    def evidence(self, arm: str) -> None:
        return None

    def contrast(self, arm: str) -> None:
        return None

    def contrasts(self) -> dict[str, str]:
        return {}

    def partners(self, arm: str) -> tuple[str, ...]:
        return ()

    def fits(self, arm: str, text: str) -> bool:
        return True

    def host_of(self, expert: str) -> str:
        return "small"

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        return Host(name, "scripted")

    def estimate(self, name: str, adapters: Sequence[str]) -> int:
        return 0

    def weights(self, name: str) -> str:
        return name

    def where(self, name: str) -> str:
        return name

    def fingerprint(self, expert: str) -> Fingerprint:
        return Fingerprint("w", expert, None, None, "scripted", 2048)

    def engine(self, name: str) -> Engine:
        return ScriptedEngine(self.answer)

    def cost(self, request: Request, usage: Usage) -> float | None:
        return None


def item(id: str, text: str, answer: str, task: str | None = "sums", split: str | None = "profile") -> Labelled:
    return Labelled(Question(id, text, (), "number", 1), answer, task, split)


ITEMS = (item("a", "1 + 1?", "2"), item("b", "2 + 2?", "4", split="calibration"), item("c", "3 + 3?", "6", None, None))
ROWS = np.eye(3, dtype=np.float32)


async def measured(
    tmp_path: Path, answer: Say, items: Sequence[Labelled] = ITEMS, arms: Sequence[str] | None = None
) -> Profile:
    registry = Fake(answer)
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        pool = Pool(registry, store)
        try:
            return await measure(items, pool, registry, ROWS[: len(items)], encoder=ENCODER, prints=PRINTS, arms=arms)
        finally:
            await pool.close()


def right(request: Request) -> str:
    """`sums` is always right, `law` never."""
    prompt = str(request.streams[0].prompt)
    return f"The answer is {2 * int(prompt[0])}." if request.arm == "sums" else "I do not know."


def cells(profile: Profile) -> dict[tuple[str, str], float]:
    return {(row["question"], row["arm"]): row["score"] for row in profile.table.to_pylist()}


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


async def test_a_profile_is_read_as_it_was_written_and_nothing_else_is_left(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)
    folder = tmp_path / "profiles" / "mine"

    write_profile(EMPTY, folder, registry="r")
    write_profile(profile, folder, registry="r")
    read = read_profile(folder, encoder=ENCODER)

    assert read.table.equals(profile.table)
    assert np.array_equal(read.vectors, profile.vectors)
    assert (read.encoder, read.arms) == (profile.encoder, profile.arms)
    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert json.loads((folder / MANIFEST).read_text())["registry"] == "r"


async def test_a_profile_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "profiles" / "mine"
    write_profile(replace(EMPTY, encoder=ENCODER), folder, registry="r")
    profile = replace(await measured(tmp_path, right), encoder=object())  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="not JSON serializable"):
        write_profile(profile, folder, registry="r")

    assert [path.name for path in folder.parent.iterdir()] == ["mine"]
    assert read_profile(folder, encoder=ENCODER).known == set()


@pytest.mark.parametrize("crash", [1, 2])
async def test_a_crash_between_any_two_renames_loses_no_profile(tmp_path: Path, crash: int) -> None:
    folder = tmp_path / "profiles" / "mine"
    old = await measured(tmp_path, right)
    write_profile(old, folder, registry="r")

    with crash_at(crash):
        write_profile(EMPTY, folder, registry="r")

    write_profile(read_profile(folder, encoder=ENCODER), folder, registry="r")
    assert read_profile(folder, encoder=ENCODER).table.equals(old.table)


async def test_a_profile_of_another_encoder_is_refused(tmp_path: Path) -> None:
    write_profile(await measured(tmp_path, right), tmp_path / "mine", registry="r")

    with pytest.raises(
        ConfigError, match="made with encoder eeeeeeeeeeee…, the registry names ffffffffffff…"
    ) as caught:
        read_profile(tmp_path / "mine", encoder="f" * 64)

    assert (caught.value.where, caught.value.remedy) == (str(tmp_path / "mine"), "measure it again with `coe profile`")


@pytest.mark.parametrize("name", [OUTCOMES, VECTORS, MANIFEST])
@pytest.mark.parametrize("raw", [None, b"", b"[]", b"\xff\xfe\x00", b"\x93NUMPY"])
async def test_a_damaged_profile_is_refused(tmp_path: Path, name: str, raw: bytes | None) -> None:
    folder = tmp_path / "mine"
    write_profile(await measured(tmp_path, right), folder, registry="r")
    if raw is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(raw)

    with pytest.raises(ConfigError, match="this profile cannot be read") as caught:
        read_profile(folder, encoder=ENCODER)

    assert caught.value.where == str(folder)


async def test_a_profile_cut_short_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write_profile(await measured(tmp_path, right), folder, registry="r")
    for name in (OUTCOMES, VECTORS, MANIFEST):
        shutil.copytree(folder, tmp_path / name)
        raw = (folder / name).read_bytes()
        for size in range(0, len(raw) - 1, 1 + len(raw) // 20):
            (tmp_path / name / name).write_bytes(raw[:size])

            with pytest.raises(ConfigError):
                read_profile(tmp_path / name, encoder=ENCODER)


async def test_a_profile_with_too_few_vectors_is_refused(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)
    write_profile(replace(profile, vectors=profile.vectors[:2]), tmp_path / "mine", registry="r")

    with pytest.raises(ConfigError, match="2 vectors for 3 questions"):
        read_profile(tmp_path / "mine", encoder=ENCODER)


@pytest.mark.parametrize(
    ("vectors", "fault"),
    [
        (np.float32(1), "of the shape ()"),
        (np.ones(3, dtype=np.float32), "of the shape (3,)"),
        (np.array([["a"], ["b"], ["c"]]), "holds <U1"),
        (np.ones((3, 2), dtype=np.int64), "holds int64"),
        (np.array([[1], [np.nan], [1]], dtype=np.float32), "holds what is no number"),
        (np.array([[1], [np.inf], [1]], dtype=np.float64), "holds what is no number"),
        (np.ones((4, 2), dtype=np.float32), "4 vectors for 3 questions"),
    ],
)
async def test_vectors_that_are_none_are_refused(tmp_path: Path, vectors: np.ndarray[Any, Any], fault: str) -> None:
    folder = tmp_path / "mine"
    write_profile(await measured(tmp_path, right), folder, registry="r")
    np.save(folder / VECTORS, vectors, allow_pickle=False)

    with pytest.raises(ConfigError, match=re.escape(fault)) as caught:
        read_profile(folder, encoder=ENCODER)

    assert (caught.value.where, caught.value.remedy) == (str(folder), "measure it again with `coe profile`")


async def test_rows_with_gaps_are_refused(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)
    rows = [row | {"score": None if i == 1 else row["score"]} for i, row in enumerate(profile.table.to_pylist())]
    table = pa.Table.from_pylist(rows, schema=profile.table.schema)
    write_profile(replace(profile, table=table), tmp_path / "mine", registry="r")

    with pytest.raises(ConfigError, match="has rows without score"):
        read_profile(tmp_path / "mine", encoder=ENCODER)


async def test_vectors_of_two_lengths_do_not_become_one_profile(tmp_path: Path) -> None:
    profile = await measured(tmp_path, right)

    with pytest.raises(ConfigError, match="vectors of 3 and of 2 numbers"):
        profile.plus(replace(profile, vectors=profile.vectors[:, :2]))


async def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="no profile can be written here") as caught:
        write_profile(EMPTY, tmp_path / "file" / "mine", registry="r")

    assert caught.value.where == str(tmp_path / "file" / "mine")


async def test_a_link_to_a_profile_stays_a_link(tmp_path: Path) -> None:
    write_profile(EMPTY, tmp_path / "real", registry="r")
    (tmp_path / "link").symlink_to("real")

    write_profile(await measured(tmp_path, right), tmp_path / "link", registry="r")

    assert (tmp_path / "link").is_symlink()
    assert read_profile(tmp_path / "real", encoder=ENCODER).known == {"sums", "law"}


async def test_what_the_user_measured_counts_on_top_and_changed_arms_are_told(
    packaged: Registry, tmp_path: Path
) -> None:
    registry = Registry(replace(packaged.settings, profile=None))
    prints = registry.prints()
    mine = replace(
        await measured(tmp_path, right),
        encoder=registry.encoder_sha,
        arms={"sums": "gone", "law": "gone", "arithmetic": "gone", "units": "gone"},
    )
    write_profile(mine, user_folder(registry), registry="r")

    found, notes = find_profile(registry)

    assert (found.known, found.arms.keys() - prints.keys()) == (set(), set())
    assert "the records of arithmetic, units are of other weights" in notes[0]
    assert notes[1:] == ["no expert has a record: general is asked everything until `coe profile` has measured them"]


def test_only_the_packaged_registry_itself_has_the_default_folder(packaged: Registry, tmp_path: Path) -> None:
    copies = []
    for project in ("a", "b"):
        path = tmp_path / project / "experts.yaml"
        path.parent.mkdir()
        path.write_bytes(packaged.settings.path.read_bytes())
        copies.append(Registry(load_settings(path)))

    assert {copy.settings.profile for copy in copies} == {packaged.settings.profile}
    assert user_folder(packaged).name == "default"
    assert len({user_folder(registry) for registry in (packaged, *copies)}) == 3


def test_a_declared_profile_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    registry = declaring(tmp_path)

    with pytest.raises(ConfigError, match=r"mine: this profile cannot be read: there is no such folder") as caught:
        find_profile(registry)

    assert caught.value.where is not None and caught.value.where.endswith("experts.yaml:7 (profile)")
    assert caught.value.remedy is not None
    assert f"`coe profile --out {tmp_path / 'mine'}`, or remove `profile:`" in caught.value.remedy


async def test_a_declared_profile_of_another_encoder_is_told_with_a_remedy_that_works(tmp_path: Path) -> None:
    registry = declaring(tmp_path)
    write_profile(replace(await measured(tmp_path, right), encoder="f" * 64), tmp_path / "mine", registry="r")

    with pytest.raises(ConfigError, match="made with encoder ffffffffffff…") as caught:
        find_profile(registry)

    assert caught.value.where is not None and caught.value.where.endswith("experts.yaml:7 (profile)")
    assert caught.value.remedy is not None and "remove `profile:`, and measure" in caught.value.remedy


async def test_arms_that_the_registry_does_not_have_are_left_out_without_a_word(tmp_path: Path) -> None:
    registry = declaring(tmp_path)
    mine = replace(await measured(tmp_path, right), arms={**registry.prints(), "law": "p2"})
    write_profile(mine, tmp_path / "mine", registry="r")

    found, notes = find_profile(registry)

    assert found.known == {"sums"}
    assert notes == ["no record of general: it gets only what is nobody's skill until `coe profile` has measured it"]


def declaring(folder: Path) -> Registry:
    """A registry of `general` and `sums` that names a profile beside it."""
    (folder / "experts.yaml").write_text(
        f"models:\n  small: {{sources: [small.gguf], sha256: {'a' * 64}}}\n"
        "experts:\n  general: {model: small}\n  sums: {model: small, system: Calculate.}\n"
        f"encoder: {{sources: [encoder.onnx], sha256: {ENCODER}, tokenizer: tokenizer.json}}\n"
        "profile: mine\n"
    )
    return Registry(load_settings(folder / "experts.yaml"))


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
