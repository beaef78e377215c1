"""Tries a program that a model wrote against tests, in child processes with limits; only where the caller allows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from composer.answers.equal import bare_environment
from composer.answers.program import Verdict

TIMEOUT = 10.0
"""Seconds of wall time for all tests of one program."""

OUTPUT = 2_000
"""Characters of what a program prints that are kept, the last ones."""

_CHILD = Path(__file__).with_name("trial_child.py")
_LIMITS = {
    "RLIMIT_AS": 1 << 30,
    "RLIMIT_FSIZE": 16 << 20,
    "RLIMIT_NOFILE": 64,
    "RLIMIT_NPROC": 0,
    "RLIMIT_CORE": 0,
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a program's tests, in their order; what it printed on the last one that did not pass; why it was
    refused; and which walls stood around it: `namespaces` (network, processes), `files` (Landlock)."""

    verdicts: tuple[Verdict, ...]
    output: str = ""
    why: str = ""
    walls: tuple[str, ...] = ()


def run_tests(program: str, tests: Sequence[str], *, execute: bool = False, timeout: float = TIMEOUT) -> Trial:
    """Run a program that a model wrote against each test, in a fresh process. Refused unless `execute` is True; never raises.

    A test is a text of Python that comes after the program, such as `assert add(1, 2) == 3`. It has passed when it
    ends without an exception. `timeout` is for all tests together: what it leaves no time for has timed out.

    Always: an empty folder that is deleted, an environment without keys, no input, limits of CPU time, address space
    (1 GiB), file size (16 MiB) and open files, and the whole group of processes killed at the end. No process may be
    started (nor a thread, unless you are root: the kernel then sets no such limit) and no socket used; that much
    Python itself refuses. On Linux, where it is permitted, `walls` tells: `namespaces` takes away the network and lets no
    process outlive the test; `files` lets it change files in its folder only, run no other program, and look into no
    other process, whose environment may hold keys.

    Not protected from: reading the files that you may read (the end of the output alone comes back); filling the disk by many
    files; a hole in the kernel; a program that reads the tests, or finds the word that says "passed" in its own
    process. Without the walls a program that means harm can do it through `ctypes`. For hostile models use a machine
    that holds nothing.
    """
    unknown: Verdict = "refused"
    refused = (unknown,) * len(tests)
    if not execute:
        return Trial(refused, why="programs written by models are not run unless `execute` is True")
    if os.name != "posix":
        return Trial(refused, why="programs are run on POSIX systems only: elsewhere nothing limits them")
    deadline = time.monotonic() + timeout
    verdicts: list[Verdict] = []
    output, why = "", ""
    walls: tuple[str, ...] = ()
    for test in tests:
        try:
            verdict, printed, stood = _run_test(program, test, deadline - time.monotonic())
            walls = stood or walls
        except OSError as problem:
            verdict, printed, why = "refused", "", f"no process could be started: {problem.strerror}"
        verdicts.append(verdict)
        output = output if verdict == "passed" else printed
    return Trial(tuple(verdicts), output, why, walls)


def _run_test(program: str, test: str, seconds: float) -> tuple[Verdict, str, tuple[str, ...]]:
    if seconds <= 0:
        return "timed out", "", ()
    with (
        tempfile.TemporaryDirectory(prefix="coe-trial-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as printed,
    ):
        limits = {**_LIMITS, "RLIMIT_CPU": int(seconds) + 2}
        job = json.dumps({"program": program, "test": test, "folder": folder, "limits": limits})
        reply = _reply(job, folder, printed, seconds)
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - 4 * OUTPUT))
        output = printed.read().decode("utf-8", "replace")[-OUTPUT:]
    if reply is None:
        return "timed out", output, ()
    told = json.loads(reply or '{"passed": false, "walls": []}')
    return "passed" if told["passed"] else "failed", output, tuple(told["walls"])


def _reply(job: str, folder: str, printed: IO[bytes], seconds: float) -> str | None:
    """What the child says, "" where it died, None where its time was over."""
    process = subprocess.Popen(
        # What -I does, and a fixed hash seed: the same program fails the same tests next time.
        [sys.executable, "-P", "-s", "-B", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=printed,
        cwd=folder,
        env=bare_environment()
        | {
            "HOME": folder,
            "TMPDIR": folder,
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        },
        encoding="utf-8",
        start_new_session=True,
    )
    try:
        return process.communicate(job, timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
