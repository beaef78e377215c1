"""A run that was killed anywhere, as often as you like, ends with the answers of one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SITES = (
    "pool.before_open",
    "pool.before_journal",
    "store.before_commit",
    "store.mid_commit",
    "store.after_commit",
    "export.before_rename",
)
QUESTIONS = 24

# For each line read (a folder; a kill site, or nothing) forks a run of the questions in the folder. The expert is a
# script, so that its answers are the same every time; each call is entered in a file of its own, the ground truth.
NURSERY = """
import hashlib, os, sys
from pathlib import Path
import numpy as np
from composer.batch import run_file
from composer.config import load_settings
from composer.engines.scripted import ScriptedEngine
from composer.pipeline import Pipeline
from composer.registry.experts import Registry

class Letters:
    def encode(self, texts):
        return np.ones((len(texts), 1), dtype=np.float32)

def work(folder):
    calls = os.open(folder / "calls.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def answer(request):
        os.write(calls, (request.parent + "\\n").encode())
        return f"answer to {request.parent}"

    Registry.engine = lambda self, name: ScriptedEngine(answer, delay=0.005)
    Pipeline.encoder = lambda self: Letters()
    pipeline = Pipeline(load_settings(folder / "experts.yaml"), store=folder / "drafts.sqlite")
    run_file(pipeline, folder / "in.jsonl", folder / "out.jsonl")

import composer.graph, composer.profile, composer.pool.pool, composer.store  # once, not once per run

for line in iter(sys.stdin.readline, ""):
    folder, site = line.rstrip("\\n").split("|")
    worker = os.fork()
    if not worker:
        if site:
            os.environ["COE_KILL_AT"] = site
        code = 1
        try:
            work(Path(folder))
            code = 0
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
"""


class Nursery:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, folder: Path, site: str = "") -> int:
        """The exit code of a run in `folder`, killed at `site`."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{folder}|{site}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nursery(process)
        assert process.stdin
        process.stdin.close()


def prepared(folder: Path) -> Path:
    folder.mkdir()
    sha = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    (folder / "small.gguf").write_bytes(b"weights")
    (folder / "experts.yaml").write_text(
        f"models:\n  small: {{sources: [small.gguf], sha256: {sha}, memory: 1MiB}}\n"
        "experts:\n  general: {model: small}\n"
    )
    rows = [{"id": f"q{i}", "question": f"question {i}"} for i in range(QUESTIONS)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def said(folder: Path) -> list[tuple[str, str, str]]:
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return [(row["id"], row["answer"], row["status"]) for row in rows]


@pytest.mark.parametrize("passing", [1, 2, 7])
@pytest.mark.parametrize("site", SITES)
def test_a_killed_run_ends_as_one_that_was_not(nursery: Nursery, tmp_path: Path, site: str, passing: int) -> None:
    whole, killed = prepared(tmp_path / "whole"), prepared(tmp_path / "killed")
    assert nursery.run(whole) == 0

    deaths = 0
    while deaths < 3 and (code := nursery.run(killed, f"{site}:{passing}")):
        assert code == -signal.SIGKILL
        if (killed / "out.jsonl").exists():  # whole or not there
            assert said(killed) == said(whole)
        deaths += 1
    assert nursery.run(killed) == 0

    assert said(killed) == said(whole)
    calls = (killed / "calls.txt").read_text().split()
    assert set(calls) == {f"q{i}" for i in range(QUESTIONS)}
    assert len(calls) <= QUESTIONS + 16 * deaths  # again at most: 8 being answered, 8 waiting for their commit


def test_every_site_that_is_passed_kills(nursery: Nursery, tmp_path: Path) -> None:
    for site in SITES:
        assert nursery.run(prepared(tmp_path / site), f"{site}:1") == -signal.SIGKILL
