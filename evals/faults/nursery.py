"""Forks the command `coe` from a process that has imported everything: a start costs a tenth of a second, not one.

Run as `python -m evals.faults.nursery`; each line of stdin is an order, each answered by a line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

# What a run imports on its way, once for all children. No thread may run when a child is forked.
_WARM = (
    "graph",
    "profile",
    "running.batch",
    "running.progress",
    "running.resume",
    "running.stopping",
    "cli",
    "pool.pool",
    "store",
    "engines.openai",
)


class Nursery:
    """A context manager. Children run in the folder they are given; what they print is in its `said.txt`, or in
    the file that `COE_SAID` names."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, folder: Path, words: Sequence[str], **environment: str) -> int:
        """Start `coe WORDS` in `folder`; its process id."""
        return self._order({"folder": str(folder), "words": list(words), "environment": environment})

    def wait(self, pid: int) -> int:
        """The exit code of a child (-9: killed)."""
        return self._order({"wait": pid})

    def run(self, folder: Path, words: Sequence[str], **environment: str) -> int:
        """Both."""
        return self.wait(self.start(folder, words, **environment))

    def _order(self, order: object) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def serve() -> None:
    """Take orders until there are no more."""
    import importlib  # noqa: PLC0415 - only the process that forks needs it

    for name in _WARM:
        importlib.import_module(f"composer.{name}")
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if "wait" in order:
            os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]))
            continue
        pid = os.fork()
        if not pid:
            _run(Path(order["folder"]), order["words"], order["environment"])
        os.write(1, b"%d\n" % pid)


def _run(folder: Path, words: list[str], environment: dict[str, str]) -> None:
    """Become the command; never returns."""
    from composer.cli import main  # noqa: PLC0415 - warm already

    code = 1
    try:
        os.chdir(folder)
        os.environ.update({"COE_STORE": str(folder / "drafts.sqlite")} | environment)
        said = os.open(os.environ.get("COE_SAID", "said.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["coe", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as why:
        os.write(2, f"Traceback: {why!r}\n".encode())
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
