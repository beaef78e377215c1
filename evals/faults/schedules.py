"""Random schedules of the pool on a simulated clock (R31): many days, what broke in them, and one of them event by event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from evals.faults.bench import Bench, Finding
from evals.faults.clock import BEGIN
from evals.faults.days import simulate


def random_days(_: Bench, n: int) -> Finding:
    """R31: callers come, leave and change their minds, hosts break, memory is short, it crashes and goes on; `n` seeds."""
    broken, happened, faults, seconds = dict[int, str](), Counter[str](), 0, 0.0
    for seed in range(n):
        day = simulate(seed)
        if day.wrong:
            broken[seed] = day.wrong[0]
        happened.update(what for _, what, _ in day.history)
        faults += day.seen.total()
        seconds += day.seconds
    first = "; ".join(f"seed {seed}: {what}" for seed, what in list(broken.items())[:3])
    figure = (
        f"violations {len(broken)}{f' ({first})' if broken else ''}; {happened['told']:,} drafts told, {faults:,} faults, "
        f"{happened['crash']:,} crashes in {seconds / 3600:,.0f} simulated hours; drafts are kept in memory, not in SQLite"
    )
    promise = (
        "everybody is told once, the right draft, by deadline + 250 ms; nobody hangs; memory is a hard bound; "
        "what is stored is not asked again, after a crash neither; nothing is left"
    )
    return Finding("R31", "random schedules of the pool, on a simulated clock", promise, figure, n, not broken)


def replay(seed: int) -> Iterator[str]:
    """What happened on that day, and the promises that were broken."""
    day = simulate(seed)
    for moment, what, detail in day.history:
        yield f"{moment - BEGIN:10.3f} {what:6} {detail}"
    yield from (f"BROKEN {what}" for what in day.wrong)
    yield f"{len(day.wrong)} promises broken on day {seed}"
