"""How the command ends: every exit code in one place (docs/runs.md has the table for users)."""

from __future__ import annotations

from typing import Final

OK: Final = 0
USAGE: Final = 2  # the command line, the registry or an input file is not what it must be
INCOMPLETE: Final = 3  # it ended, but rows failed or were unusable, or a replay differs
DEGRADED: Final = 4  # it ended and every row has an answer, but more of them are degraded than --max-degraded allows
UNAVAILABLE: Final = 6  # an expert, a file or the store cannot be had (also: another process has it)
EXHAUSTED: Final = (
    7  # a budget is used up, a deadline is reached, the disk is full; the same command goes on from there
)
CORRUPT: Final = 8  # stored data do not match their checksums
HUNG_UP: Final = 129  # from here on as shells report the end by a signal: SIGHUP, SIGINT, SIGPIPE, SIGTERM
INTERRUPTED: Final = 130
CLOSED_PIPE: Final = 141
TERMINATED: Final = 143
