"""What the store knows about runs: where each comes from, how each of its starts ended, what its drafts cost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from composer.costs import Cost, share_cpu
from composer.store.lock import is_held
from composer.store.reader import Reader
from composer.store.rows import Cell, Row, clean, dump, insert, now, text
from composer.store.schema import CHARGE, ENDING, ORIGIN, QUESTION, RUN, START, TOLD, WHOLE_SQL
from composer.types import Draft, Role, Stop, Usage

Ending = Literal["finished", "interrupted", "terminated", "hung-up", "out-of-budget", "error", "superseded"]
State = Literal[
    "running",
    "killed",
    "unknown",
    "finished",
    "interrupted",
    "terminated",
    "hung-up",
    "out-of-budget",
    "error",
    "superseded",
]
"""`running`: a process works on it; `killed`: its last start has no ending; `unknown`: made before starts were kept."""

SETTLED: frozenset[State] = frozenset({"finished", "superseded", "unknown"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run comes from: the kind of command, its files, and the text of its registry (all paths absolute).

    `inputs_sha` is over all questions in their order: with `out` it says that two runs are the same work. `options` are
    the words of the command that shape its answers, of the last start.
    """

    kind: str
    source: str
    out: str
    inputs_sha: str
    registry_path: str
    registry_text: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Charge:
    """A draft that a start of a run received, and what it cost. One from the store (`cached`) cost nothing: its `usage`
    is what it cost when it was made. `stop` is `cancelled` where a call was cut short: what that cost is not known."""

    custom_id: str
    arm: str
    role: Role
    sample: int
    key: str
    stop: Stop
    cached: bool
    usage: Usage

    @classmethod
    def of(cls, custom_id: str, arm: str, role: Role, sample: int, draft: Draft) -> Charge:
        """The entry of one draft."""
        return cls(custom_id, arm, role, sample, draft.key, draft.stop, draft.cached, draft.usage)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the store knows it. `results` counts its finished questions by status; times are UTC, as text;
    `summary` is what its last start that ended left behind; `code_version` is that of the last start."""

    run_id: str
    config_sha: str
    code_version: str
    started: str
    ended: str | None
    starts: int
    state: State
    questions: int
    results: Mapping[str, int]
    origin: Origin | None
    summary: Mapping[str, Any] | None

    @property
    def done(self) -> int:
        """Questions with a final answer."""
        return sum(self.results.values())


def enter_start(run_id: str, code_version: str, origin: Origin | None, connection: sqlite3.Connection) -> int:
    """Inside a write: record that a run is started, and where it comes from; the number of this start, from 1."""
    [(last,)] = connection.execute("SELECT max(n) FROM start WHERE run_id = ?", (run_id,)).fetchall()
    number = (last or 0) + 1
    insert(connection, START, (run_id, number, now(), clean(code_version)))
    if origin is not None:
        cells = (origin.kind, origin.source, origin.out, origin.inputs_sha, origin.registry_path, origin.registry_text)
        insert(connection, ORIGIN, (run_id, *map(clean, cells)))
        if origin.options:
            insert(connection, TOLD, (run_id, number, clean(dump(list(origin.options)))))
    return number


def enter_ending(
    run_id: str, n: int, state: Ending, summary: Mapping[str, Any], connection: sqlite3.Connection
) -> None:
    """Inside a write: record how a start ended. The first ending stays."""
    insert(connection, ENDING, (run_id, n, state, now(), dump(dict(summary))))


def enter_charge(run_id: str, n: int, charge: Charge, connection: sqlite3.Connection) -> None:
    """Inside a write: record what a draft cost."""
    usage = charge.usage
    insert(
        connection,
        CHARGE,
        (
            run_id,
            n,
            clean(charge.custom_id),
            clean(charge.arm),
            charge.role,
            charge.sample,
            charge.key,
            charge.stop,
            int(charge.cached),
            usage.tokens_in,
            usage.tokens_out,
            usage.passes,
            float(usage.seconds),
            None if usage.cost is None else float(usage.cost),
        ),
    )


def run_records(reader: Reader, store: Path, run_id: str | None = None) -> list[RunRecord]:
    """All runs (or the one), oldest first. Blocks. Damaged rows are left out."""
    which, values = ("", ()) if run_id is None else (" WHERE run_id = ?", (run_id,))
    runs = reader.rows(RUN, f"FROM run{which}", values)
    origins = {text(row[0]): _origin(row) for row in reader.rows(ORIGIN, f"FROM origin{which}", values)}
    told = {(text(row[0]), row[1]): row for row in reader.rows(TOLD, f"FROM told{which}", values)}
    starts: dict[str, list[Row]] = {}
    for row in reader.rows(START, f"FROM start{which} ORDER BY run_id, n", values):
        starts.setdefault(text(row[0]), []).append(row)
    endings = {(text(row[0]), row[1]): row for row in reader.rows(ENDING, f"FROM ending{which}", values)}
    asked = _counts(reader.figures(f"SELECT run_id, count(*) FROM question{which} GROUP BY run_id", values))
    results: dict[str, dict[str, int]] = {}
    sql = f"SELECT run_id, status, count(*) FROM result{which} GROUP BY run_id, status"
    for name, status, count in reader.figures(sql, values):
        results.setdefault(text(name), {})[text(status)] = cast(int, count)
    found = []
    for row in runs:
        name = text(row[0])
        own = starts.get(name, [])
        last = endings.get((name, own[-1][1])) if own else None
        ended = [end for start in own if (end := endings.get((name, start[1]))) is not None]
        found.append(
            RunRecord(
                run_id=name,
                config_sha=text(row[1]),
                code_version=text(own[-1][3] if own else row[2]),
                started=text(row[3]),
                ended=text(last[3]) if last is not None else None,
                starts=len(own),
                state=_state(store, name, bool(own), last),
                questions=asked.get(name, 0),
                results=results.get(name, {}),
                origin=_with_options(origins.get(name), told.get((name, own[-1][1])) if own else None),
                summary=json.loads(text(ended[-1][4])) if ended else None,
            )
        )
    return sorted(found, key=lambda run: (run.started, run.run_id))


def same_work(reader: Reader, store: Path, origin: Origin) -> list[RunRecord]:
    """The runs that wrote the same questions to the same file, whatever their registry. Blocks."""
    rows = reader.rows(ORIGIN, "FROM origin WHERE out = ? AND inputs_sha = ?", (clean(origin.out), origin.inputs_sha))
    return [run for row in rows for run in run_records(reader, store, text(row[0]))]


def charges(reader: Reader, run_id: str | None = None) -> list[tuple[int, Charge]]:
    """What each start of a run (None: of all runs) was charged, as (start, entry). Blocks."""
    which, values = ("", ()) if run_id is None else (" WHERE run_id = ?", (run_id,))
    return [_charge(row) for row in reader.rows(CHARGE, f"FROM charge{which} ORDER BY run_id, n, custom_id", values)]


def costs(reader: Reader, run_id: str, by: Literal["arm", "custom_id"] | None = None) -> dict[str, Cost]:
    """What a run cost over all its starts: one line under "", or one per arm or question. CPU seconds are those of the
    starts that ended, divided by the time of the calls; not known where a start was killed. Blocks."""
    paid = "NOT cached AND stop <> 'cancelled'"
    columns = ", ".join(f"total(CASE WHEN {paid} THEN {name} END)" for name in ("tokens_in", "tokens_out", "passes"))
    rows = reader.figures(
        f"SELECT {by or chr(39) * 2} AS line, sum({paid}), sum(cached), sum({paid} AND stop NOT IN {WHOLE_SQL}), "
        f"sum(stop = 'cancelled'), {columns}, total(CASE WHEN {paid} THEN seconds END), "
        f"total(CASE WHEN {paid} THEN cost END), sum({paid} AND cost IS NULL) "
        "FROM charge WHERE run_id = ? GROUP BY line ORDER BY line",
        (run_id,),
    )
    found = {text(row[0]): _cost(row[1:]) for row in rows}
    if by is None:
        found = found or {"": Cost()}
    summaries = [row[4] for row in reader.rows(ENDING, "FROM ending WHERE run_id = ?", (run_id,))]
    [(starts,)] = reader.figures("SELECT count(*) FROM start WHERE run_id = ?", (run_id,))
    used = [json.loads(text(summary)).get("cpu_seconds") for summary in summaries]
    if len(used) == starts and None not in used:
        share_cpu(found, sum(used))
    return found


def landed(reader: Reader, run_id: str) -> tuple[int, int]:
    """Whole drafts that the last start of a run has received, and for how many questions: how far it is while it goes
    on, since results are recorded when it ends. Blocks."""
    [(drafts, questions)] = reader.figures(
        f"SELECT count(*), count(DISTINCT custom_id) FROM charge WHERE run_id = ? AND stop IN {WHOLE_SQL} "
        "AND n = (SELECT max(n) FROM start WHERE run_id = ?)",
        (run_id, run_id),
    )
    return cast(int, drafts), cast(int, questions)


def uses(reader: Reader, run_id: str | None = None) -> list[tuple[str, tuple[str, ...]]]:
    """(run, the arms whose hosts had to answer) per question of a run (None: of all runs), in the order of runs and lines.
    Drafts from the store needed no host; questions that needed none are left out. Blocks.

    What `coe serve` answered has no charges, so its traces are read. Both come from one statement, and every join goes
    along a primary key.
    """
    which, values = ("", ()) if run_id is None else (" AND run_id = ?", (run_id, run_id))
    rows = reader.figures(
        "WITH used AS ("
        f"SELECT run_id, custom_id, arm FROM charge WHERE NOT cached AND stop <> 'cancelled' AND role = 'draft'{which} "
        "UNION SELECT run_id, custom_id, json_extract(draft.value, '$.name') FROM origin CROSS JOIN result USING (run_id), "
        "json_each(CASE WHEN json_valid(payload) THEN payload ELSE '{}' END, '$.drafts') AS draft "
        f"WHERE kind = 'serve' AND NOT json_extract(draft.value, '$.cached'){which}) "
        "SELECT run_id, custom_id, arm FROM used CROSS JOIN question USING (run_id, custom_id) "
        "CROSS JOIN run USING (run_id) ORDER BY started, run_id, line_no, custom_id, arm",
        values,
    )
    found: dict[tuple[Cell, Cell], list[str]] = {}
    for run, custom_id, arm in rows:
        found.setdefault((run, custom_id), []).append(text(arm))
    return [(text(run), tuple(arms)) for (run, _), arms in found.items()]


def open_questions(reader: Reader, run_id: str) -> list[tuple[str, int]]:
    """(id, line) of the questions of a run without a final answer, in file order. Blocks."""
    rows = reader.rows(
        QUESTION,
        "FROM question LEFT JOIN result USING (run_id, custom_id) WHERE run_id = ? AND status IS NULL ORDER BY line_no",
        (run_id,),
    )
    return [(text(row[1]), cast(int, row[2])) for row in rows]


def questions_of(reader: Reader, run_id: str) -> dict[str, tuple[int, str]]:
    """The line and the sha256 of the input of each question of a run, in file order. Blocks."""
    rows = reader.rows(QUESTION, "FROM question WHERE run_id = ? ORDER BY line_no", (run_id,))
    return {text(row[1]): (cast(int, row[2]), text(row[3])) for row in rows}


def _state(store: Path, run_id: str, started: bool, ending: Row | None) -> State:
    if is_held(store, run_id):
        return "running"
    if not started:
        return "unknown"
    if ending is None:
        return "killed"
    told = text(ending[2])
    return cast(State, told) if told in get_args(Ending) else "unknown"


def _origin(row: Row) -> Origin:
    kind, source, out, inputs_sha, registry_path, registry_text = (text(cell) for cell in row[1:7])
    return Origin(kind, source, out, inputs_sha, registry_path, registry_text)


def _with_options(origin: Origin | None, told: Row | None) -> Origin | None:
    if origin is None or told is None:
        return origin
    return replace(origin, options=tuple(map(str, json.loads(text(told[2])))))


def _charge(row: Row) -> tuple[int, Charge]:
    _, n, custom_id, arm, role, sample, key, stop, cached, tokens_in, tokens_out, passes, seconds, cost, _ = row
    usage = Usage(
        tokens_in=cast(int, tokens_in),
        tokens_out=cast(int, tokens_out),
        passes=cast(int, passes),
        seconds=cast(float, seconds),
        cost=cast("float | None", cost),
    )
    charge = Charge(
        text(custom_id),
        text(arm),
        cast(Role, text(role)),
        cast(int, sample),
        text(key),
        cast(Stop, text(stop)),
        bool(cached),
        usage,
    )
    return cast(int, n), charge


def _cost(cells: Sequence[Cell]) -> Cost:
    calls, cached, failed, cut, tokens_in, tokens_out, passes, seconds, money, unpriced = cells
    return Cost(
        calls=cast(int, calls),
        cached=cast(int, cached),
        failed=cast(int, failed),
        cut=cast(int, cut),
        tokens_in=int(cast(float, tokens_in)),
        tokens_out=int(cast(float, tokens_out)),
        passes=int(cast(float, passes)),
        seconds=cast(float, seconds),
        money=None if unpriced else cast(float, money),
    )


def _counts(rows: Sequence[tuple[Cell, ...]]) -> dict[str, int]:
    return {text(name): cast(int, count) for name, count in rows}
