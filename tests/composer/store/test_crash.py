"""Killed anywhere and started again: what was acknowledged is there, once, and is not asked twice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from composer.store import DraftStore

QUESTIONS = 150
IN_FLIGHT = 16

# For each line read (a folder; a kill site, or nothing) forks a worker, which answers every question of a run that has
# no answer yet. A "call" is entered in a file of its own, the ground truth, before its draft is stored.
NURSERY = f"""
import asyncio, os, sys
from pathlib import Path
from composer.store import DraftStore
from composer.types import Draft, Request, Stream

def tell(file, *words):
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())

async def work(path, calls):
    async with DraftStore.open(path) as store:
        run = await store.begin("run", "config", "code", [(f"q{{i}}", i, f"input {{i}}") for i in range({QUESTIONS})])
        done = await run.results()
        doors = asyncio.Semaphore({IN_FLIGHT})

        async def answer(i):
            async with doors:
                key = f"key{{i}}"
                stored = await store.get([key])
                if key not in stored:
                    tell(calls, i)
                    await store.put(Draft(key, f"answer {{i}}", "stop"), Request(f"q{{i}}", (Stream("e", "?"),)))
                    tell(1, "draft", i)
                await run.finish(f"q{{i}}", 0, {{"answer": f"answer {{i}}"}}, "ok")
                tell(1, "result", i)

        await asyncio.gather(*(answer(i) for i in range({QUESTIONS}) if f"q{{i}}" not in done))

for line in iter(sys.stdin.readline, ""):
    folder, site = line.rstrip("\\n").split("|")
    worker = os.fork()
    if not worker:
        if site:
            os.environ["COE_KILL_AT"] = site
        tell(1, "pid", os.getpid())
        calls = os.open(Path(folder, "calls.txt"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        asyncio.run(work(Path(folder, "drafts.sqlite"), calls))
        os._exit(0)
    tell(1, "exit", os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
"""

# Writes the same keys as its siblings, each with a text of its own, and shows what it finds afterwards.
RACE = """
import asyncio, os, sys
from pathlib import Path
from composer.store import DraftStore
from composer.types import Draft, Request, Stream

async def main(path):
    asked = Request("q", (Stream("e", "?"),))
    async with DraftStore.open(path) as store:
        await asyncio.gather(*(store.put(Draft(f"key{i}", f"{i} by {os.getpid()}", "stop"), asked) for i in range(400)))
        for key, draft in sorted((await store.get([f"key{i}" for i in range(400)])).items()):
            print(key, draft.text)

asyncio.run(main(Path(sys.argv[1])))
"""


class Life:
    """The life of one store: its workers, one after the other, and what they acknowledged."""

    def __init__(self, nursery: subprocess.Popen[str], folder: Path) -> None:
        self.folder = folder
        self.told: set[str] = set()
        self._nursery = nursery
        folder.mkdir()

    @property
    def calls(self) -> list[str]:
        """The questions that were called for, in order, repeated ones too."""
        file = self.folder / "calls.txt"
        return file.read_text().split() if file.exists() else []

    def work(self, site: str = "", *, lines: int | None = None, wait: float = 0.0) -> int:
        """Let one worker run to its end, or kill it at `site`, or `wait` seconds after `lines` acknowledgements.

        Returns its exit code, after checking that it called for nothing that had been acknowledged before.
        """
        before, known = len(self.calls), set(self.told)
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(f"{self.folder}|{site}\n")
        self._nursery.stdin.flush()
        worker = int(self._nursery.stdout.readline().split()[1])
        line = ""
        for heard in itertools.count():
            if heard == lines:
                time.sleep(wait)
                with contextlib.suppress(ProcessLookupError):  # it had come to its end
                    os.kill(worker, signal.SIGKILL)
            line = self._nursery.stdout.readline()
            if line.startswith("exit"):
                break
            assert line
            self.told.add(line.strip())
        assert not [i for i in self.calls[before:] if f"draft {i}" in known]
        return int(line.split()[1])


@pytest.fixture(scope="module")
def nursery() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def check(life: Life) -> int:
    """Everything acknowledged is there and sound, nothing is there twice. Returns the number of results."""

    async def stored() -> int:
        async with DraftStore.open(life.folder / "drafts.sqlite") as store:
            found = await store.get([f"key{i}" for i in range(QUESTIONS)])
            with await store.begin("run", "config", "code", []) as run:
                results = await run.results()
            assert store.corrupt == 0
        assert {f"draft {key[3:]}" for key in found} >= {line for line in life.told if line.startswith("draft")}
        assert {f"result {name[1:]}" for name in results} >= {line for line in life.told if line.startswith("result")}
        assert all(draft.text == f"answer {key[3:]}" for key, draft in found.items())
        assert all(result.payload == {"answer": f"answer {name[1:]}"} for name, result in results.items())
        return len(results)

    finished = asyncio.run(stored())
    connection = sqlite3.connect(life.folder / "drafts.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for table, key in (("call", "call_key"), ("result", "custom_id")):
        [[rows, keys]] = connection.execute(f"SELECT count(*), count(DISTINCT {key}) FROM {table}").fetchall()
        assert rows == keys
    connection.close()
    return finished


@pytest.mark.parametrize("site", ["store.before_commit", "store.mid_commit", "store.after_commit"])
def test_crashes_at_a_named_site_lose_nothing_acknowledged(
    tmp_path: Path, nursery: subprocess.Popen[str], site: str
) -> None:
    life = Life(nursery, tmp_path / "life")

    for passing in (1, 1, 2, 3, 2, 5):
        assert life.work(f"{site}:{passing}") == -9
        check(life)

    assert life.work() == 0
    assert check(life) == QUESTIONS


@pytest.mark.parametrize("kills", [25, pytest.param(1000, marks=pytest.mark.slow)])
def test_runs_killed_again_and_again_end_as_uninterrupted_ones(
    tmp_path: Path, nursery: subprocess.Popen[str], kills: int
) -> None:
    chance = random.Random(kills)

    while kills > 0:
        life = Life(nursery, tmp_path / f"life{kills}")
        killed = 0
        while life.work(lines=chance.randrange(40), wait=chance.choice([0, 0.04 * chance.random()])) == -9:
            killed += 1
        kills -= killed

        assert check(life) == QUESTIONS
        assert set(life.calls) == {str(i) for i in range(QUESTIONS)}
        assert len(life.calls) - QUESTIONS <= killed * IN_FLIGHT
        assert list((life.folder / "locks").iterdir()) == []


def test_processes_that_write_the_same_keys_agree_on_the_first(tmp_path: Path) -> None:
    path = tmp_path / "drafts.sqlite"

    children = [
        subprocess.Popen([sys.executable, "-c", RACE, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    outputs = [child.communicate()[0] for child in children]

    assert [child.returncode for child in children] == [0] * 4
    assert len(outputs[0].splitlines()) == 400
    assert set(outputs) == {outputs[0]}
