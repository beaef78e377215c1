"""`coe profile`: what it refuses before it measures, what it asks, and what it leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted import THREE, Scripted

from composer.errors import ConfigError, InputError
from composer.places import user_folder
from composer.profile import MANIFEST, OUTCOMES, VECTORS, find_profile, read_profile
from composer.profiling import profile_file
from composer.types import Draft, Failure, Request

ENCODER = "e" * 64
ARMS = {"general", "sums", "law"}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(tmp_path, monkeypatch)


def rows(path: Path, *extra: dict[str, Any], n: int = 2) -> Path:
    """`n` good rows, each with the keys of `extra` in turn."""
    extra = extra or ({},) * n
    path.write_text(
        "".join(
            json.dumps({"id": f"q{i}", "question": f"What is {i} + 0?", "answer": i, "task": "sums"} | more) + "\n"
            for i, more in enumerate(extra)
        )
    )
    return path


def right(request: Request) -> str:
    return str(request.parent)[1:]


def asked(bench: Scripted) -> int:
    return sum(len(batch) for engine in bench.engines for batch in engine.batches)


# What is refused before anything is asked


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (("thesis.tex", "notes.md"), "holds notes.md, thesis.tex"),
        ((MANIFEST, "background.js"), "holds background.js"),  # other programs write manifests, too
        ((VECTORS,), f"holds {VECTORS}"),
    ],
)
def test_a_folder_with_other_files_is_left_as_it_is(
    bench: Scripted, tmp_path: Path, files: tuple[str, ...], told: str
) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    for name in files:
        (out / name).write_text("mine")

    with pytest.raises(InputError, match=told) as caught:
        profile_file(bench.pipeline(), rows(tmp_path / "in.jsonl"), out)

    assert (caught.value.where, asked(bench)) == (str(out), 0)
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(files, "mine")


@pytest.mark.parametrize("out", ["file", "file/deeper", "/proc/nowhere/mine"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_asked(
    bench: Scripted, tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(InputError, match="no profile can be written here") as caught:
        profile_file(bench.pipeline(), rows(tmp_path / "in.jsonl"), tmp_path / out)

    assert (caught.value.where, asked(bench)) == (str(tmp_path / out), 0)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (
            ({"answer": None}, {"split": "train"}),
            "2 are bad, 0 of the split `test`; the first bad one, line 1: `answer`",
        ),
        (({"split": "test"},), "0 are bad, 1 of the split `test`"),
    ],
)
def test_a_file_without_a_usable_row_is_refused(
    bench: Scripted, tmp_path: Path, extra: tuple[dict[str, Any], ...], told: str
) -> None:
    source = rows(tmp_path / "in.jsonl", *extra)

    with pytest.raises(InputError, match=told) as caught:
        profile_file(bench.pipeline(), source, None)

    assert (caught.value.where, bench.encoded, bench.engines) == (str(source), [], [])


def test_a_registry_without_an_encoder_cannot_be_profiled(bench: Scripted, tmp_path: Path) -> None:
    pipeline = bench.pipeline(THREE.partition("encoder:")[0])

    with pytest.raises(ConfigError, match="declares none"):
        profile_file(pipeline, rows(tmp_path / "in.jsonl"), None)


# What is asked


def test_only_what_routers_learn_from_is_asked(bench: Scripted, tmp_path: Path) -> None:
    splits = ("profile", "calibration", None, "test", "train", "validation")
    source = rows(tmp_path / "in.jsonl", *({"split": split} for split in splits))

    report = profile_file(bench.pipeline(answer=right), source, tmp_path / "mine")

    questions, _ = report.profile.columns()
    assert questions.ids == ("q0", "q1", "q2")
    assert asked(bench) == 3 * len(ARMS)
    assert report.held_out == 1
    assert [(error.line, error.reason.partition(",")[0]) for error in report.errors] == [
        (5, "`split` is 'train'"),
        (6, "`split` is 'validation'"),
    ]
    assert "left out: line 5: `split` is 'train'" in "\n".join(report.lines())


def test_a_report_tells_failed_calls_from_cut_off_replies_and_bad_rows(bench: Scripted, tmp_path: Path) -> None:
    def answer(request: Request) -> str | Draft | Failure:
        if request.parent == "q1":
            return Failure("timeout", "too slow") if request.arm == "law" else Draft("", "It is", "length")
        return right(request)

    source = rows(tmp_path / "in.jsonl", {}, {}, {"answer": None})

    report = profile_file(bench.pipeline(answer=answer), source, None)

    assert (report.failed, report.cut, len(report.errors), report.cached) == (1, 2, 1, 0)
    assert report.folder == user_folder(bench.pipeline().registry)


# What is left in the folder


def test_a_second_file_adds_to_the_first(bench: Scripted, tmp_path: Path) -> None:
    profile_file(bench.pipeline(answer=right), rows(tmp_path / "in.jsonl"), tmp_path / "mine")

    report = profile_file(bench.pipeline(), rows(tmp_path / "in.jsonl", n=4), tmp_path / "mine")

    assert len(report.profile.columns()[0]) == 4
    assert report.cached == 2 * len(ARMS)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {MANIFEST, OUTCOMES, VECTORS}


def test_what_was_measured_is_found_by_the_router(bench: Scripted, tmp_path: Path) -> None:
    pipeline = bench.pipeline(answer=right)

    profile_file(pipeline, rows(tmp_path / "in.jsonl"), None)

    found, notes = find_profile(pipeline.registry)
    assert (found.known, notes) == (ARMS, [])


@pytest.mark.parametrize(
    ("name", "raw", "told"),
    [
        (VECTORS, b"", "this profile cannot be read"),
        (OUTCOMES, None, "this profile cannot be read"),
        (MANIFEST, b"{}", "this profile cannot be read"),
        (MANIFEST, b'{"encoder": "ffff", "arms": {}}', "made with encoder ffff"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_a_damaged_or_foreign_profile_is_replaced_and_the_report_says_so(
    bench: Scripted, tmp_path: Path, name: str, raw: bytes | None, told: str, declared: bool
) -> None:
    pipeline, source = bench.pipeline(answer=right), rows(tmp_path / "in.jsonl")
    out = tmp_path / "mine" if declared else None
    folder = profile_file(pipeline, source, out).folder
    if raw is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(raw)

    report = profile_file(pipeline, source, out)

    note = report.notes[0]
    assert note.startswith("the profile that was there is replaced: ") and told in note
    assert note in list(report.lines())
    assert read_profile(folder, encoder=ENCODER).known == ARMS


def test_a_profile_with_vectors_of_another_length_is_replaced(bench: Scripted, tmp_path: Path) -> None:
    pipeline, source = bench.pipeline(answer=right), rows(tmp_path / "in.jsonl")
    folder = profile_file(pipeline, source, None).folder
    np.save(folder / VECTORS, np.ones((2, 7), dtype=np.float32))

    report = profile_file(pipeline, source, None)

    assert "vectors of 7 and of 64 numbers" in report.notes[0]
    assert find_profile(pipeline.registry)[0].known == ARMS


def test_a_lost_manifest_of_the_users_own_profile_is_repaired(bench: Scripted, tmp_path: Path) -> None:
    pipeline, source = bench.pipeline(answer=right), rows(tmp_path / "in.jsonl")
    folder = profile_file(pipeline, source, None).folder
    (folder / MANIFEST).unlink()

    profile_file(pipeline, source, None)

    assert find_profile(pipeline.registry)[0].known == ARMS


def test_projects_that_share_a_folder_keep_each_others_records(bench: Scripted, tmp_path: Path) -> None:
    source, out = rows(tmp_path / "in.jsonl"), tmp_path / "shared"
    first = bench.pipeline(answer=right, project="a")
    profile_file(first, source, out)
    other = THREE.replace("  sums: {model: small, system: Calculate.}\n", "").replace("Judge.", "Judge well.")

    report = profile_file(bench.pipeline(other, project="b"), source, out)

    kept = read_profile(out, encoder=ENCODER)
    assert report.profile.known == {"general", "law"}
    assert kept.known == ARMS
    assert kept.arms["sums"] == first.registry.prints()["sums"]
    assert kept.arms["law"] != first.registry.prints()["law"]


def test_copies_of_one_registry_have_a_profile_each(bench: Scripted, tmp_path: Path) -> None:
    one, two = (bench.pipeline(answer=right, project=project) for project in "ab")

    profile_file(one, rows(tmp_path / "in.jsonl"), None)

    assert find_profile(one.registry)[0].known == ARMS
    assert find_profile(two.registry)[0].known == set()
