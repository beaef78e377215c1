"""What is shown while a batch runs: counts per host, on a terminal and in a log."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from composer.running.progress import HostView, Tally, View, joined, line, table
from composer.trace import Drafted, Routed
from composer.types import Draft, Failure, Usage


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def drafted(arm: str, tokens: int, seconds: float, **more: object) -> Drafted:
    usage = Usage(tokens_out=tokens, seconds=seconds)
    return Drafted.of("q", arm, Draft("", "text", "stop", usage, **more))  # type: ignore[arg-type]


def test_events_are_counted_per_host() -> None:
    clock = Clock()
    tally = Tally({"sums": "small", "sorts": "small", "law": "large"}.__getitem__, clock)
    for arms in (("sums", "law"), ("sorts",), ("sums",)):
        tally.hear(Routed("q", arms, {}, {}))
    clock.now += 2
    tally.hear(drafted("sums", 20, 2.0))
    tally.hear(drafted("sorts", 99, 9.0, cached=True))
    clock.now += 2
    tally.hear(Drafted.of("q", "law", Draft("", "", "error", error=Failure("timeout", "late"))))

    view = tally.view(loads=2, floor=2)

    assert view.hosts["small"] == HostView(queued=1, done=2, tokens_per_second=10.0)
    assert view.hosts["large"].queued == 0
    assert (view.done, view.wanted, view.cached, view.failed, view.seconds) == (3, 4, 1, 1, 4.0)
    assert line(view, "drafts") == "3 of 4 drafts, 1 from the store, 2 loads (floor 2), 4 s, 1 not whole"


def test_a_terminal_gets_a_row_per_host_and_unknown_is_a_dash() -> None:
    view = View(
        {"small": HostView(5, 7, 31.4, running=2, resident=2**30, loads=1), "large": HostView(1, 0, 0.0)},
        7,
        13,
        0,
        0,
        9.0,
        1,
        2,
        "interrupted",
    )
    out = io.StringIO()

    Console(file=out, width=120).print(table(view, "drafts"))

    told = out.getvalue()
    assert "stopping: interrupted" in told and "queued" in told
    assert [line.split() for line in told.splitlines()[2:]] == [
        ["small", "5", "2", "7", "31", "1024", "MiB", "1"],
        ["large", "1", "-", "0", "0", "-", "-"],
    ]


@dataclass(frozen=True)
class Host:
    queued: int = 3
    running: int = 2
    done: int = 7
    tokens_per_second: float = 8.5
    resident: int = 100
    loads: int = 1


@dataclass(frozen=True)
class Status:
    hosts: Mapping[str, Host]
    loads: int = 4
    floor: int = 2


def test_what_the_pool_knows_replaces_what_was_counted() -> None:
    counted = View({"small": HostView(5, 7, 3.0), "large": HostView(1, 0, 0.0)}, 7, 13, 0, 0, 9.0)

    view = joined(counted, Status({"small": Host()}))

    assert view.hosts == {"small": HostView(3, 7, 8.5, 2, 100, 1), "large": HostView(1, 0, 0.0)}
    assert (view.loads, view.floor, view.done, view.wanted) == (4, 2, 7, 13)


WATCH = """
import time
from composer.pipeline import Pipeline
from composer.running.progress import watch
from composer.trace import Drafted, Routed
from composer.types import Draft, Usage

pipeline = Pipeline.from_file(offline=True)
with watch(pipeline, "drafts"):
    pipeline.hearer(Routed("q", ("sorting", "units"), {}, {}))
    pipeline.hearer(Routed("q", ("an expert with examples",), {}, {}))
    pipeline.hearer(Drafted.of("q", "units", Draft("", "4", "stop", Usage(tokens_out=3, seconds=0.1))))
    time.sleep(0.6)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize("colour", ["", "1"])
def test_the_table_is_drawn_on_a_real_terminal_and_no_color_is_honoured(tmp_path: Path, colour: str) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "NO_COLOR": colour}

    done = subprocess.run([sys.executable, "-c", WATCH], cwd=tmp_path, env=env, stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    told = os.read(ours, 100_000).decode()
    os.close(ours)

    assert (done.returncode, done.stdout) == (0, b"")
    assert "1 of 3 drafts" in told and "smollm2" in told
    assert bool(re.search(r"\x1b\[(\d+;)*3[0-7]m", told)) == (not colour)


def test_a_log_gets_lines_and_no_escapes(tmp_path: Path) -> None:
    code = WATCH.replace(
        "from composer.running.progress",
        "import composer.running.progress; composer.running.progress.EVERY = 0.0\nfrom composer.running.progress",
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert done.stderr == "1 of 3 drafts, 0 from the store, 0 loads, 0 s\n"
