"""What the store knows about runs, for people and programs: the list, how far one is, what it cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from composer.costs import Cost
from composer.errors import InputError
from composer.running.resume import resume_of
from composer.running.traffic import Installed, traffic
from composer.show import printable
from composer.store import SETTLED, DraftStore, RunRecord, default_path

FEWEST = 4  # characters of an id that name a run
_NAMED = 5  # so many open questions are spelt out


def find_run(runs: Sequence[RunRecord], name: str | None) -> RunRecord:
    """The run that a user means: by its id, the beginning of it, or its file of answers (then its last run); None: the last
    run of a file. Raises InputError where there is none, or more than one."""
    files = [run for run in runs if run.origin is not None and run.origin.kind == "run"]
    if name is None:
        if not files:
            raise InputError("the store knows no run of a file", remedy="answer one: coe run IN --out OUT")
        return files[-1]
    place = os.path.realpath(name)
    found = [run for run in runs if run.run_id == name]
    found = found or [run for run in files if run.origin is not None and run.origin.out == place][-1:]
    found = found or [run for run in runs if len(name) >= FEWEST and run.run_id.startswith(name)]
    if len(found) != 1:
        what = (
            f"{len(found)} runs begin with {name!r}" if found else f"no run, and no answers of one, are called {name!r}"
        )
        raise InputError(what, remedy="see `coe runs` for the ids")
    return found[0]


def failed_of(run: RunRecord) -> int | None:
    """How many questions of a run that ended have no answer; None while it is not known."""
    return run.questions - run.done if run.state == "finished" else None


def run_data(run: RunRecord) -> dict[str, Any]:
    """A run as `coe runs --json` prints it."""
    origin = run.origin
    return {
        "run_id": run.run_id,
        "kind": origin.kind if origin else None,
        "state": run.state,
        "started": run.started,
        "ended": run.ended,
        "starts": run.starts,
        "source": origin.source if origin else None,
        "out": origin.out if origin else None,
        "questions": run.questions,
        "done": run.done,
        "failed": failed_of(run),
    }


def run_lines(runs: Iterable[RunRecord]) -> list[str]:
    """Runs as a table."""
    rows = [("run", "began (UTC)", "state", "questions", "done", "failed", "file")]
    for run in runs:
        failed, origin = failed_of(run), run.origin
        file = (
            f"{origin.source} -> {origin.out}"
            if origin and origin.kind == "run"
            else f"({origin.kind if origin else '?'})"
        )
        began = run.started[:19].replace("T", " ")
        rows.append(
            (
                run.run_id,
                began,
                run.state,
                str(run.questions),
                str(run.done),
                "-" if failed is None else str(failed),
                file,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    return [
        printable("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
        for row in rows
    ]


async def status_data(
    store: DraftStore, run: RunRecord, *, questions: bool = False, installed: Installed = lambda _: {}
) -> dict[str, Any]:
    """How far a run is, as `coe status --json` prints it; with `questions` also what each of them cost. `installed` as in
    `traffic`."""
    missing = await store.open_questions(run.run_id)
    sums = await store.costs(run.run_id)
    drafts, asked = await store.landed(run.run_id)
    data = run_data(run) | {
        "results": dict(run.results),
        "landed": {"drafts": drafts, "questions": asked},
        "missing": [{"id": name, "line": line} for name, line in missing],
        "resume": resume_of(run),
        "registry": run.origin.registry_path if run.origin else None,
        "code_version": run.code_version,
        "ledger": sums.as_dict(),
        "traffic": (await traffic(store, [run], run.run_id, installed=installed)).as_dict(),
        "summary": run.summary,
    }
    if questions:
        lines = await store.costs_by_question(run.run_id)
        data["ledger"]["questions"] = {name: line.as_dict() for name, line in lines.items()}
    return data


async def status_lines(store: DraftStore, run: RunRecord, *, installed: Installed = lambda _: {}) -> list[str]:
    """How far a run is, in one screen; `installed` as in `traffic`."""
    missing = await store.open_questions(run.run_id)
    sums = await store.costs(run.run_id)
    by_status = ", ".join(f"{count} {status}" for status, count in sorted(run.results.items()))
    lines = [f"run      {run.run_id}  {run.state}"]
    if run.origin is not None and run.origin.kind == "run":
        lines += [f"file     {run.origin.source} -> {run.origin.out}", f"registry {run.origin.registry_path}"]
    ended = f", last ended {run.ended}" if run.ended else ""
    lines.append(f"began    {run.started}, starts: {run.starts}{ended}")
    lines.append(f"done     {run.done} of {run.questions} questions" + (f" ({by_status})" if by_status else ""))
    if run.state == "running":
        drafts, asked = await store.landed(run.run_id)
        lines.append(f"so far   {drafts} drafts for {asked} questions in this start")
    if missing:
        named = ", ".join(name for name, _ in missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
        what = "no answer" if run.state in SETTLED else "left"
        lines.append(f"{what:8} {len(missing)}: {named}")
    lines.append("spent    " + cost_text(sums.run))
    lines += [f"         {name}: {cost_text(line)}" for name, line in sums.arms.items()]
    lines += (await traffic(store, [run], run.run_id, installed=installed)).lines()
    again = resume_of(run)
    if again:
        lines.append(f"go on    {again}")
    return [printable(line) for line in lines]


def cost_text(cost: Cost) -> str:
    """A line of a ledger in words."""
    parts = [f"{cost.calls} calls ({cost.cached} more from the store)", f"{cost.tokens_in} + {cost.tokens_out} tokens"]
    parts += [f"{cost.passes} passes", f"{cost.seconds:.1f} s of calls"]
    parts.append("CPU not known" if cost.cpu_seconds is None else f"{cost.cpu_seconds:.1f} CPU s")
    parts.append("price not known" if cost.money is None else f"money {cost.money:.6g}")
    if cost.failed:
        parts.append(f"{cost.failed} gave no whole draft")
    if cost.cut:
        parts.append(f"{cost.cut} cut short (what they cost is not known)")
    return ", ".join(parts)


def store_file() -> Path:
    """The store's file. Raises InputError where nothing was ever stored: looking must not make it."""
    path = default_path()
    if not path.exists():
        raise InputError("there is no draft store yet", where=str(path), remedy="ask something: coe ask QUESTION")
    return path
