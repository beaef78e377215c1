"""The verbs of what the store knows: what comes after a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from composer.command.kit import AsJson, Config, FormName, print_json, say
from composer.errors import InputError
from composer.exits import CORRUPT, INCOMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from composer.records.contrasts import ContrastRecord
    from composer.registry.experts import Registry
    from composer.store import DraftStore, RunRecord

T = TypeVar("T")

RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Its id, the beginning of it, or its file (else the last run).")
]


def mount(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command("runs")(runs_)
    app.command()(status)
    app.command("replay")(replay_)
    app.command()(diff)
    app.command("export")(export_)
    cache = typer.Typer(help="The draft store's file.", no_args_is_help=True, rich_markup_mode=None)
    cache.command()(stats)
    cache.command()(gc)
    cache.command()(verify)
    app.add_typer(cache, name="cache")


def runs_(
    every: Annotated[bool, typer.Option("--all", help="Single questions (`coe ask`) too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs that the store knows, oldest first."""
    from composer.running.runs import run_data, run_lines

    found = [run for run in known_runs() if every or run.origin is None or run.origin.kind == "run"]
    if as_json:
        print_json([run_data(run) for run in found])
        return
    for line in run_lines(found):
        typer.echo(line)


def status(
    name: RunName = None,
    questions: Annotated[bool, typer.Option("--questions", help="With --json: what each question cost.")] = False,
    traffic: Annotated[
        bool,
        typer.Option("--traffic", help="Instead: what all runs together, single questions too, say about memory."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """How far a run is, what is missing, what it cost, what memory is worth to it, and how to go on with it."""
    from composer.running.runs import find_run, status_data, status_lines

    if traffic:
        _tell_traffic(name, as_json)
        return
    found = find_run(known_runs(), name)
    if as_json:
        print_json(in_store(lambda store: status_data(store, found, questions=questions, installed=_contrasts)))
        return
    for line in in_store(lambda store: status_lines(store, found, installed=_contrasts)):
        typer.echo(line)


def _contrasts(registry: Registry) -> Mapping[str, ContrastRecord]:
    """Those that `coe fit contrast` installed."""
    from composer.learning.fitted import contrasts_of

    return contrasts_of(registry, lambda _: None)


def _tell_traffic(name: str | None, as_json: bool) -> None:
    """The traffic of all runs, one stream in the order in which they were begun."""
    from composer.running.traffic import traffic
    from composer.show import printable

    if name is not None:
        raise InputError(
            f"--traffic is about all runs, and {name!r} is one", where="--traffic", remedy=f"coe status {name}"
        )
    runs = known_runs()
    found = in_store(lambda store: traffic(store, runs, installed=_contrasts))
    if as_json:
        print_json(found.as_dict())
        return
    for line in found.lines() or ["no question needed a host yet"]:
        typer.echo(printable(line))


def replay_(
    question: Annotated[str, typer.Argument(metavar="ID", help="A trace id of the answers, or a question's id.")],
    run_name: Annotated[
        str | None, typer.Option("--run", help="The run of a question's id (else the last one).")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Combine the same drafts with this aggregator instead.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Ask the experts again, just as before, and show which drafts differ.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make one answer again from the same drafts, and say whether it and its trace are the same. Nobody is asked but with
    --fresh."""
    from dataclasses import asdict

    from composer.running.replay import find_question, replay
    from composer.running.runs import find_run, store_file
    from composer.show import printable

    every = known_runs()
    wanted = find_run(every, run_name) if run_name is not None else None
    run_id, trace = in_store(lambda store: find_question(store, question, wanted))
    done = replay(store_file(), find_run(every, run_id), trace, config=config, by=by, fresh=fresh)
    if as_json:
        print_json({**asdict(done), "equal": done.equal})
    else:
        typer.echo(printable(str(done.again["answer"])))
        said = "answer and trace are the same" if done.equal else "NOT the same"
        if by is not None:
            same = done.again["answer"] == trace["answer"]
            said = f"{by} on the same drafts gives {'the same answer' if same else 'another answer'}"
        asked = f"{done.calls} drafts were drawn anew and not kept" if fresh else "nobody was asked"
        say(f"run {run_id}, question {trace['id']}: {said}; {asked}")
        for path, then, now in done.changes:
            say(printable(f"  {path}: {then!r} -> {now!r}"))
    if not done.equal and by is None:
        raise typer.Exit(INCOMPLETE)


def diff(
    a: Annotated[str, typer.Argument(help="A run: its id, the beginning of it, or its file of answers.")],
    b: Annotated[str, typer.Argument(help="Another one.")],
    labels: Annotated[
        Path | None, typer.Option("--labels", help="JSONL with right answers: say which run is better.")
    ] = None,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="With --labels: run programs against the rows' tests, on this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show which answers differ between two runs."""
    from dataclasses import asdict

    from composer.running.compare import compare
    from composer.running.runs import find_run
    from composer.show import printable

    every = known_runs()
    one, two = find_run(every, a), find_run(every, b)
    found = in_store(lambda store: compare(store, one, two, labels, run_code=run_code))
    if as_json:
        paired = {**asdict(found.paired), "verdict": found.paired.verdict} if found.paired else None
        print_json({**asdict(found), "paired": paired})
        return
    for change in found.changes:
        typer.echo(printable("  ".join((change.id, *map(_said, change.answers, change.statuses, change.right)))))
    typer.echo(
        f"{found.same} the same, {len(found.changes)} differ, {len(found.only_a)} only in A, {len(found.only_b)} only in B"
    )
    if found.paired is not None:
        p = found.paired
        typer.echo(
            f"right: A {100 * p.a:.1f} %, B {100 * p.b:.1f} % of {p.questions}; B less A {100 * p.difference:+.1f} "
            f"[{100 * p.low:+.1f}, {100 * p.high:+.1f}] points; {p.wins} gained, {p.losses} lost: {p.verdict}"
        )


def export_(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Its id, the beginning of it, or its file of answers.")],
    to: Annotated[Path, typer.Option("--to", help="The file: .parquet, else JSONL.")],
    form: FormName = "rows",
    as_json: AsJson = False,
) -> None:
    """Write the answers of a run, as far as it is, into a file."""
    from composer.running.export import export
    from composer.running.outputs import form_of
    from composer.running.runs import find_run

    run_found, written = find_run(known_runs(), name), form_of(form)
    answered = in_store(lambda store: export(store, run_found, to, written))
    if as_json:
        print_json({"run_id": run_found.run_id, "file": str(to), "rows": run_found.questions, "answered": answered})
    say(f"{run_found.questions} rows, {answered} with an answer: {to}")


def stats(as_json: AsJson = False) -> None:
    """Size, rows, and per arm how many drafts there are and how often one was there when it was asked for."""
    from composer.running.runs import store_file
    from composer.store.upkeep import stats as measure

    found = measure(store_file())
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['path']}: {found['bytes'] / 1e6:.1f} MB")
    typer.echo(", ".join(f"{count} {name}" for name, count in found["rows"].items()) + " rows")
    for name, arm in found["arms"].items():
        share = f"{100 * arm['hits'] / arm['asked']:.0f} %" if arm["asked"] else "-"
        typer.echo(f"{name or '(no arm)'}: {arm['drafts']} drafts, asked {arm['asked']}, there {arm['hits']} ({share})")


def gc(
    older_than: Annotated[float, typer.Option("--older-than", help="Only drafts that are this many days old.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the drafts that no run refers to (those of `coe profile` and `coe eval` are among them)."""
    from dataclasses import asdict
    from datetime import timedelta

    from composer.running.runs import store_file
    from composer.store.upkeep import collect_garbage

    if not 0 <= older_than < 36500:
        raise InputError(f"{older_than} is no age", where="--older-than", remedy="write days, such as 30 or 0.5")
    found = collect_garbage(store_file(), timedelta(days=older_than), dry_run=dry_run)
    if as_json:
        print_json(asdict(found))
        return
    typer.echo(
        f"{'removed' if found.removed else 'would remove'} {found.drafts} drafts ({found.size / 1e6:.1f} MB of text)"
    )


def verify(
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete damaged rows: what only they held is asked again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every row of the store against its checksum."""
    from dataclasses import asdict

    from composer.running.runs import store_file
    from composer.show import printable
    from composer.store.upkeep import find_damage

    rows, bad = find_damage(store_file(), remove=remove)
    if as_json:
        print_json({"rows": rows, "damaged": [asdict(row) for row in bad], "removed": remove})
    else:
        for row in bad:
            typer.echo(printable(f"damaged {row.table}: {', '.join(row.key)}"))
        typer.echo(f"{rows} rows, {len(bad)} damaged" + (" and removed" if bad and remove else ""))
    if bad and not remove:
        if not as_json:
            say("next: coe cache verify --remove")
        raise typer.Exit(CORRUPT)


def known_runs() -> list[RunRecord]:
    """Every run of the store."""
    return in_store(lambda store: store.runs())


def in_store(work: Callable[[DraftStore], Coroutine[Any, Any, T]]) -> T:
    """Do `work` with the draft store, which has to exist."""
    import asyncio

    from composer.running.runs import store_file
    from composer.store import DraftStore

    async def done() -> T:
        async with DraftStore.open(store_file()) as store:
            return await work(store)

    return asyncio.run(done())


def _said(answer: str | None, status: str | None, right: float | None) -> str:
    """One side of a changed row."""
    worth = "" if right is None else f" (right {right:g})"
    return f"{answer!r} {status or 'no answer'}{worth}"
