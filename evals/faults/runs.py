"""Runs of the real command that are killed, stopped by signals, or started twice (R1, R23, R24)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

from evals.faults.bench import RUN, Bench, Finding, digest, left_behind, questions, rows_of

SITES = ("pool.before_open", "pool.before_journal", "store.before_commit", "store.mid_commit", "store.after_commit")
LAST_SITE = "export.before_rename"  # passed once per run
_QUESTIONS, _SLOTS, _MODEL = 48, 8, "slow:0.005"
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def killed_runs(bench: Bench, kills: int, seed: int = 5) -> Finding:
    """R1: half of the kills at named sites, the others from outside at a random moment of the run.

    How many drafts wait for their commit when a kill comes depends on the disk, so that number is told and not judged:
    what was committed is never asked again, and no start asks a question twice.
    """
    chance = random.Random(seed)
    whole = bench.prepared("whole", asked := questions(_QUESTIONS), _MODEL, slots=_SLOTS)
    bench.nursery.run(whole, RUN)
    right = digest(whole)
    killed, lives, calls, kept, wrong, sites = 0, 0, 0, 0, Counter[str](), Counter[str]()
    while killed < kills:
        folder, since, deaths = bench.prepared("life", asked, _MODEL, slots=_SLOTS), bench.mark(), 0
        lives += 1
        while deaths < 8 and killed < kills:
            at = f"{chance.choice(SITES)}:{chance.randint(1, 5)}" if chance.random() < 0.5 else ""
            at = f"{LAST_SITE}:1" if chance.random() < 0.05 else at
            found, begun = _committed(bench, folder), bench.mark()
            pid = bench.nursery.start(folder, RUN, **({"COE_KILL_AT": at} if at else {}))
            if not at:
                time.sleep(0.05 + 0.35 * chance.random())
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            code = bench.nursery.wait(pid)
            wrong["asked although committed"] += _asked_of(bench, found, begun)
            kept += len(found)
            if code == -signal.SIGKILL:
                deaths += 1
                sites[at.partition(":")[0] or "outside"] += 1
                killed += 1
                wrong["torn output"] += (folder / "out.jsonl").exists() and digest(folder) != right
            elif code == 0:
                break
            else:
                wrong[f"exit {code}"] += 1
                break
        found, begun = _committed(bench, folder), bench.mark()
        wrong["not resumed"] += bench.nursery.run(folder, RUN) != 0
        wrong["asked although committed"] += _asked_of(bench, found, begun)
        kept += len(found)
        rows = rows_of(folder / "out.jsonl")
        wrong["lost"] += _QUESTIONS - len({row["id"] for row in rows})
        wrong["doubled"] += len(rows) - len({row["id"] for row in rows})
        wrong["digest"] += digest(folder) != right
        wrong["left behind"] += len(left_behind(folder))
        asked_here = bench.calls(_MODEL, since)  # of a start that was killed the server may hear after the next began
        wrong["asked twice by one start"] += max(asked_here.values()) > deaths + 1
        calls += asked_here.total() - _QUESTIONS
    unused = [site for site in (*SITES, LAST_SITE, "outside") if kills >= 100 and not sites[site]]
    share = calls / (lives * _QUESTIONS)
    figure = (
        f"{lives} runs of {_QUESTIONS}: lost {wrong['lost']}, doubled {wrong['doubled']}, "
        f"digest equal {lives - wrong['digest']}/{lives}; of {kept:,} drafts that a start found committed "
        f"{wrong['asked although committed']} asked again, of those in flight or not committed yet {calls} "
        f"({calls / max(killed, 1):.1f} per kill, {share:.1%} of the questions)"
        f"{_others(wrong, 'lost', 'doubled', 'digest', 'asked although committed')}"
    )
    promise = "one result per question; resumed = uninterrupted; only calls in flight are asked again"
    return Finding(
        "R1", "kill -9 of the run, and again", promise, figure, killed, bool(kept) and not (+wrong or unused)
    )


def _committed(bench: Bench, folder: Path) -> set[str]:
    """The prompts, as the server's ledger names them, whose drafts are in the folder's store; read from a copy, since
    SQLite mends what a kill left when it is opened, and that is the next start's work."""
    copy = bench.new("copy")
    for path in folder.glob("drafts.sqlite*"):
        shutil.copy(path, copy)
    if not (store := copy / "drafts.sqlite").exists():
        return set()
    with closing(sqlite3.connect(store)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'call'").fetchall()
        said = connection.execute("SELECT response FROM call").fetchall() if tables else []
    return {text.split()[-1] for (text,) in said}  # an answer of the server ends in the name of its prompt


def _asked_of(bench: Bench, committed: set[str], since: int) -> int:
    """Calls, after byte `since` of the ledger, of prompts whose drafts were committed before."""
    return sum(count for name, count in bench.calls(_MODEL, since).items() if name in committed)


def signalled_runs(bench: Bench, signals: int, seed: int = 5) -> Finding:
    """R24: a signal, or two, while calls are in flight; then the same command again."""
    chance = random.Random(seed)
    asked = questions(24)
    whole = bench.prepared("whole", asked, "slow:0.1", slots=_SLOTS)
    bench.nursery.run(whole, RUN)
    kinds = [(number, *more) for number in _CODES for more in ((), (number,), (signal.SIGTERM,))]
    wrong, worst, stopped = Counter[str](), 0.0, 0
    for trial in range(signals):
        kind = kinds[trial % len(kinds)]
        folder, since = bench.prepared("signalled", asked, "slow:0.1", slots=_SLOTS), bench.mark()
        pid = bench.nursery.start(folder, RUN)
        while not bench.calls("slow:0.1", since):
            time.sleep(0.01)
        time.sleep(0.3 * chance.random())
        began = time.monotonic()
        for number in kind:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(0.05 * chance.random())
        code = bench.nursery.wait(pid)
        worst = max(worst, time.monotonic() - began)
        said = (folder / "said.txt").read_text()
        # of two that come while native code runs, Python may take either first
        wrong["exit code"] += code not in ({_CODES[number] for number in kind} | ({0} if digest(folder) else set()))
        stopped += code != 0
        wrong["traceback"] += "Traceback" in said
        unfinished = code != 0 and not (folder / "out.jsonl").exists()
        wrong["no command to go on"] += unfinished and len(kind) == 1 and "coe run in.jsonl" not in said
        wrong["left behind"] += len(left_behind(folder))
        wrong["not resumed"] += bench.nursery.run(folder, RUN) != 0
        wrong["lost"] += digest(folder) != digest(whole)
    figure = (
        f"stopped {stopped}, lost {wrong['lost']}, right exit codes {signals - wrong['exit code']}/{signals}; "
        f"slowest stop {worst:.1f} s{_others(wrong, 'lost', 'exit code')}"
    )
    promise = "first: calls land, 130/143/129, the command to go on; second: at once; nothing lost"
    return Finding("R24", "SIGINT, SIGTERM, SIGHUP, once or twice", promise, figure, signals, not +wrong)


def raced_runs(bench: Bench, races: int, seed: int = 5) -> Finding:
    """R23: two processes on one run, and two to eight on one store."""
    chance = random.Random(seed)
    wrong, refused = Counter[str](), 0
    asked = questions(16)
    whole = bench.prepared("whole", asked, "slow:0.01")
    bench.nursery.run(whole, RUN)
    for race in range(races):
        folder = bench.prepared("race", asked, "slow:0.01")
        if race % 2:
            count = chance.randint(2, 8)  # one store, each its own output
            orders = [("run", "in.jsonl", "--out", f"out{i}.jsonl", "--config", "experts.yaml") for i in range(count)]
        else:
            orders = [RUN] * 2
        pids = []
        for order in orders:
            pids.append(bench.nursery.start(folder, order))
            time.sleep(0.1 * chance.random())
        codes = [bench.nursery.wait(pid) for pid in pids]
        refused += codes.count(6)
        wrong["exit code"] += not set(codes) <= ({0} if race % 2 else {0, 6}) or 0 not in codes
        outs = [folder / order[3] for order in orders]
        for out in set(outs):
            if out.name != "out.jsonl":
                (folder / "out.jsonl").write_bytes(out.read_bytes())
            wrong["wrong output"] += digest(folder) != digest(whole)
        wrong["left behind"] += len(left_behind(folder))
    figure = (
        f"wrong or doubled outputs {wrong['wrong output']}, second refused {refused}{_others(wrong, 'wrong output')}"
    )
    promise = "a second process on one run is refused (6) or finds it done; many on one store agree"
    return Finding("R23", "two processes on a run, 2-8 on a store", promise, figure, races, not +wrong)


def _others(wrong: Counter[str], *told: str) -> str:
    """What else went wrong."""
    return "".join(f"; {name} {count}" for name, count in wrong.items() if count and name not in told)
