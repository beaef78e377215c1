"""verify: read the answer out of every new draft, try it where it is a program and that is allowed, and compare."""

from __future__ import annotations

import threading
from dataclasses import replace

from composer.answers.program import Verdict
from composer.stages.kit import Kit, Stage, kind_of
from composer.stages.reading import compared_aside, read
from composer.state import Query, Reply, State, Update

_ONE = threading.Lock()


def verify(kit: Kit, *, run_code: bool = False) -> Stage:
    """Extract by the query's kind, or by what its first arm writes, and tell which answers of a row are equal. Truncated
    and failed drafts have no answer.

    `run_code` allows that programs which models wrote are run here, against the tests of their query. Each test has a
    fresh process: an empty folder, no keys in its environment, no input, limits of time, memory and file size, no
    socket and no other process; on Linux, where it is permitted, the kernel sees to it that nothing is reached by
    network and no file is changed elsewhere. A program can still read the files that you can read; where the kernel
    does not help, one that means harm can do what you can do. For models you do not trust use a machine that holds
    nothing.
    """

    async def stage(state: State) -> Update:
        rows: list[tuple[Reply, ...]] = []
        for row, (query, replies) in enumerate(zip(state.queries, state.replies, strict=True)):
            kind = kind_of(kit, state, row)
            own = [read(reply, query, kind) for reply in replies]
            if run_code and kind == "code" and query.tests:
                own = [await _tried(reply, query) for reply in own]
            rows.append(await compared_aside(own, kind))
        return {"replies": tuple(rows)}

    return stage


async def _tried(reply: Reply, query: Query) -> Reply:
    """With what came of the tests. One program runs at a time, whoever asked: others beside it would cost it its time."""
    if reply.answer is None or reply.verdicts:
        return reply
    import asyncio  # noqa: PLC0415 - `coe route` makes this stage and never runs it

    from composer.answers.trial import run_tests  # noqa: PLC0415 - only where it is allowed

    program = reply.answer

    def tried() -> tuple[Verdict, ...]:
        with _ONE:
            return run_tests(program, query.tests, execute=True).verdicts

    return replace(reply, verdicts=await asyncio.to_thread(tried))
