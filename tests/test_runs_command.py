"""The verbs of runs as a user meets them: a real model, a real store, fresh processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COE = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
SUMS = ["47 + 38", "12 + 30", "9 + 16", "21 + 34"]


def coe(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", COE, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_batch_of_openai_is_stopped_gone_on_with_replayed_compared_and_exported(tmp_path: Path) -> None:
    lines = [
        {
            "custom_id": f"sum-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "auto", "messages": [{"role": "user", "content": f"What is {text}?"}]},
        }
        for i, text in enumerate(SUMS)
    ]
    lines.append({**lines[0], "custom_id": "twice", "body": {**lines[0]["body"], "n": 2}})  # type: ignore[dict-item]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    stopped = coe("run", "in.jsonl", "--out", "out.jsonl", "--max-calls", "2", cwd=tmp_path)

    assert stopped.returncode == 7, stopped.stderr
    assert "stopped by max-calls: 2 of 4 questions are left" in stopped.stderr
    assert not (tmp_path / "out.jsonl").exists()
    assert "in `body`: n: 2 answers" in (tmp_path / "out.errors.jsonl").read_text()
    status = told(coe("status", "--json", cwd=tmp_path))
    assert (status["state"], status["done"], status["ledger"]["run"]["calls"]) == ("out-of-budget", 2, 2)
    assert [run["run_id"] for run in told(coe("runs", "--json", cwd=tmp_path))] == [status["run_id"]]

    words = shlex.split(stopped.stderr.strip().splitlines()[-1])
    gone_on = coe(*words[1:], "--summary", "summary.json", cwd=tmp_path)

    assert gone_on.returncode == 3, gone_on.stderr  # the bad row
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["85", "42", "25", "55"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["cached"], summary["stopped"], summary["ledger"]["run"]["calls"]) == (2, None, 4)
    assert "4 of 4 questions" in coe("status", "out.jsonl", cwd=tmp_path).stdout
    traffic = told(coe("status", "--traffic", "--json", cwd=tmp_path))
    assert (traffic["questions"], list(traffic["hosts"]), traffic["advice"]) == (4, ["smollm2"], None)
    assert traffic["hosts"]["smollm2"] > 90 * 2**20
    assert coe("status", "out.jsonl", "--traffic", cwd=tmp_path).returncode == 2

    again = coe("replay", rows[0]["trace_id"], cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, rows[0]["answer"] + "\n")
    assert "answer and trace are the same" in again.stderr
    anew = coe("replay", rows[0]["trace_id"], "--fresh", cwd=tmp_path)
    assert (anew.returncode, "1 drafts were drawn anew" in anew.stderr) == (0, True), anew.stderr
    assert told(coe("replay", "sum-1", "--by", "majority", "--json", cwd=tmp_path))["by"] == "majority"
    assert told(coe("diff", "out.jsonl", status["run_id"][:8], "--json", cwd=tmp_path))["same"] == 4
    assert (
        told(coe("export", "out.jsonl", "--to", "x.jsonl", "--form", "openai-batch", "--json", cwd=tmp_path))[
            "answered"
        ]
        == 4
    )
    assert coe("run", "in.jsonl", "--out", "elsewhere.jsonl", cwd=tmp_path).returncode == 3
    assert told(coe("cache", "stats", "--json", cwd=tmp_path))["arms"]["arithmetic"]["hits"] == 4
    assert told(coe("cache", "gc", "--json", cwd=tmp_path))["drafts"] == 0
    assert told(coe("cache", "verify", "--json", cwd=tmp_path))["damaged"] == []


def test_lines_of_a_batch_are_answered_as_each_of_them_asks(tmp_path: Path) -> None:
    ask = {"role": "user", "content": "What is 47 + 38?"}
    bodies = {
        "plain": {"messages": [ask]},
        "short": {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 5},
        "stopped": {"messages": [ask], "stop": "="},
        "told": {
            "messages": [{"role": "system", "content": "Be brief."}, ask, {"role": "assistant", "content": "85"}, ask]
        },
        "endless": {"messages": [ask], "max_tokens": 1_000_000},
    }
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"custom_id": name, "body": body}) + "\n" for name, body in bodies.items())
    )

    done = coe("run", "in.jsonl", "--out", "out.jsonl", "--form", "openai-batch", cwd=tmp_path)

    assert done.returncode == 3, done.stderr  # the endless one
    lines = {line["custom_id"]: line for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    choices = {name: line["response"]["body"]["choices"][0] for name, line in lines.items()}
    assert choices["plain"]["message"]["content"] == "85" and choices["plain"]["finish_reason"] == "stop"
    assert (choices["short"]["finish_reason"], lines["short"]["response"]["body"]["usage"]["completion_tokens"]) == (
        "length",
        5,
    )
    assert "=" not in choices["stopped"]["message"]["content"]
    read = {name: line["response"]["body"]["usage"]["prompt_tokens"] for name, line in lines.items()}
    assert read["told"] > read["plain"] + 10
    assert "max_tokens: 1000000, at most" in (tmp_path / "out.errors.jsonl").read_text()
    for name in lines:
        assert coe("replay", name, cwd=tmp_path).returncode == 0


def test_more_degraded_answers_than_are_allowed_have_an_exit_code_of_their_own(tmp_path: Path) -> None:
    short = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 5}
    sums = [{"messages": [{"role": "user", "content": f"What is {text}?"}]} for text in SUMS[:2]]
    lines = [{"custom_id": str(i), "body": body} for i, body in enumerate([short, *sums])]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("run", "in.jsonl", "--out", "out.jsonl", "--max-degraded")

    few, many = coe(*words, "0.3", cwd=tmp_path), coe(*words, "0.34", cwd=tmp_path)

    assert (few.returncode, many.returncode) == (4, 0), few.stderr
    assert "1 of 3 answers are degraded, 33.3 %: more than --max-degraded 0.3 allows" in few.stderr
    assert (tmp_path / "out.jsonl").exists()


def test_a_damaged_store_is_told_by_the_exit_code_and_mended(tmp_path: Path) -> None:
    assert coe("ask", "What is 47 + 38?", cwd=tmp_path).stdout == "85\n"
    store = sqlite3.connect(os.environ["COE_STORE"])
    with store:
        store.execute("UPDATE call SET response = '86'")
    store.close()

    found, mended, after = (coe("cache", "verify", *more, cwd=tmp_path) for more in ([], ["--remove"], []))

    assert (found.returncode, mended.returncode, after.returncode) == (8, 0, 0)
    assert "damaged call" in found.stdout and "coe cache verify --remove" in found.stderr
    assert coe("ask", "What is 47 + 38?", cwd=tmp_path).stdout == "85\n"


def test_a_changed_registry_is_shown_and_refused_until_it_is_accepted(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "experts.yaml").read_text()
    (tmp_path / "experts.yaml").write_text(text)
    rows = [{"id": text, "question": f"What is {text}?"} for text in SUMS]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("run", "in.jsonl", "--out", "out.jsonl")
    assert coe(*words, "--max-calls", "1", cwd=tmp_path).returncode == 7

    (tmp_path / "experts.yaml").write_text(text.replace("max_tokens: 64", "max_tokens: 60"))
    refused, accepted = coe(*words, cwd=tmp_path), coe(*words, "--accept-config-change", cwd=tmp_path)

    assert refused.returncode == 2
    assert "-    sampling: {max_tokens: 64}" in refused.stderr.replace("\x1b", "")
    assert "--accept-config-change" in refused.stderr
    assert accepted.returncode == 0, accepted.stderr


@pytest.mark.parametrize("words", [["runs"], ["status"], ["cache", "stats"], ["replay", "x"], ["diff", "a", "b"]])
def test_looking_into_a_store_that_is_not_there_makes_none(tmp_path: Path, words: list[str]) -> None:
    done = coe(*words, cwd=tmp_path)

    assert done.returncode == 2
    assert "there is no draft store yet" in done.stderr
    assert not Path(os.environ["COE_STORE"]).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-calls", "0"], "--max-calls"),
        (["--deadline", "yesterday"], "--deadline"),
        (["--form", "csv"], "--form"),
        (["--dedupe", "last"], "--dedupe"),
        (["--max-degraded", "20"], "--max-degraded"),
        (["--dedupe", "last", "--dry-run"], "--dedupe"),
    ],
)
def test_an_option_that_says_nothing_is_refused_before_anything(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a", "question": "?"}\n')

    done = coe("run", "in.jsonl", "--out", "out.jsonl", *words, cwd=tmp_path)

    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr


def test_one_question_has_a_budget_too(tmp_path: Path) -> None:
    long = "Tell me a long story about a dog."

    tokens, seconds = (
        coe("ask", long, *words, cwd=tmp_path) for words in (["--max-tokens", "20"], ["--max-seconds", "0.01"])
    )

    assert (tokens.returncode, tokens.stdout) == (7, "")
    assert re.search(r"stopped by max-tokens \(one call may cost \d+ tokens\): no draft was there", tokens.stderr)
    assert (seconds.returncode, "stopped by max-seconds" in seconds.stderr) == (7, True)
    enough = coe("ask", "What is 47 + 38?", "--max-tokens", "1000", "--max-calls", "1", cwd=tmp_path)
    assert (enough.returncode, enough.stdout) == (0, "85\n")
