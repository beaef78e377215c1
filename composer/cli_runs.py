"""The verbs of files and of what the store knows: run, and what comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from composer.cli_kit import AsJson, Config, Ended, Memory, Offline, complain, make_pipeline, print_json, say
from composer.errors import InputError
from composer.exits import CORRUPT, EXHAUSTED, INCOMPLETE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from composer.batch import Summary
    from composer.budget import Budget
    from composer.store import DraftStore, RunRecord

T = TypeVar("T")

RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Its id, the beginning of it, or its file (else the last run).")
]
FormName = Annotated[str, typer.Option("--form", help="Of the answers: rows, or openai-batch.")]
MaxCalls = Annotated[int | None, typer.Option("--max-calls", help="Most calls of experts; cached drafts are free.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Most tokens, read and written.")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", help="Most seconds from now.")]


def mount(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(run)
    app.command("runs")(runs_)
    app.command("calibrate")(calibrate_)
    app.command()(status)
    app.command("replay")(replay_)
    app.command()(diff)
    app.command("export")(export_)
    cache = typer.Typer(help="The draft store's file.", no_args_is_help=True, rich_markup_mode=None)
    cache.command()(stats)
    cache.command()(gc)
    cache.command()(verify)
    app.add_typer(cache, name="cache")


def run(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="JSONL rows (id, question[, choices, kind]) or an OpenAI batch.")
    ],
    out: Annotated[Path, typer.Option(help="The answers, one JSONL row per id.")],
    summary: Annotated[Path | None, typer.Option(help="Write counts, ledger and seconds here as JSON.")] = None,
    form: FormName = "rows",
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_seconds: MaxSeconds = None,
    deadline: Annotated[str | None, typer.Option(help="Stop at this moment: 07:30, or 2027-01-31T07:30.")] = None,
    accept_config_change: Annotated[
        bool,
        typer.Option(
            "--accept-config-change", help="Begin anew where an unfinished run had another registry or program."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what it would cost: calls, loads, memory, seconds, first routes."),
    ] = False,
    config: Config = None,
    memory: Memory = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Answer a file of questions, each expert loaded once. Stopped or killed and started again it goes on where it was."""
    from composer.stopping import stopping

    if dry_run:
        from composer.forecasting import preview_file

        preview = preview_file(make_pipeline(config, memory, offline), source)
        if as_json:
            print_json(preview.as_dict())
        else:
            for line in preview.lines():
                typer.echo(line)
        return

    budget = make_budget(max_calls, max_tokens, max_seconds, deadline)
    with stopping(budget) as stopper:  # before the heavy imports: what they catch of a Ctrl-C is lost
        from asyncio import CancelledError
        from dataclasses import asdict

        from composer.batch import run_file
        from composer.outputs import form_of
        from composer.progress import watch
        from composer.resume import resume_command

        more = {"--form": form if form != "rows" else None, "--memory": memory, "--summary": summary}
        told = [word for name, value in more.items() if value is not None for word in (name, str(value))]
        again = resume_command(source, out, config, *told)
        pipeline = make_pipeline(config, memory, offline)
        try:
            with watch(pipeline, "drafts", lambda: budget.stopped):
                done = run_file(
                    pipeline,
                    source,
                    out,
                    summary=summary,
                    budget=budget,
                    accept_change=accept_config_change,
                    form=form_of(form),
                    guard=stopper.guarding,
                )
        except CancelledError:
            if stopper.exit_code is None:
                raise
            complain(f"{stopper.why}; what was finished is in the store. Go on with:\n  {again}")
            raise Ended(stopper.exit_code) from None
    _tell(done, out)
    if as_json:
        print_json(asdict(done))
    if done.unfinished:
        there = f"; the finished ones are in {done.partial}" if done.partial else ""
        by = done.stopped if stopper.why else f"stopped by {budget.told}"
        complain(f"{by}: {done.unfinished} of {done.queries} questions are left{there}. Go on with:\n  {again}")
    if stopper.exit_code is not None:
        raise Ended(stopper.exit_code)
    if done.unfinished:
        raise typer.Exit(EXHAUSTED)
    if done.failed or done.bad_rows:
        raise typer.Exit(INCOMPLETE)


def calibrate_(config: Config = None, memory: Memory = None, as_json: AsJson = False, offline: Offline = False) -> None:
    """Measure once how fast this machine loads, reads and writes with each model: what `run --dry-run` predicts by."""
    from dataclasses import asdict

    from composer.pool.calibrate import calibrate, speeds_file
    from composer.pool.speeds import HostSpeed

    def told(name: str, speed: HostSpeed) -> None:
        say(
            f"{name}: opened in {speed.load:.1f} s ({speed.memory / 2**20:.0f} MiB), reads {speed.prefill:.0f} tokens/s, "
            f"writes {speed.decode_one:.0f} alone and {speed.decode:.0f} with {speed.slots} at once"
        )

    pipeline = make_pipeline(config, memory, offline)
    with pipeline:
        speeds = pipeline.complete(calibrate(pipeline.registry, list(pipeline.settings.models), say=told))
    if as_json:
        print_json({**asdict(speeds), "file": str(speeds_file())})
    else:
        say(f"kept in {speeds_file()}")


def runs_(
    every: Annotated[bool, typer.Option("--all", help="Single questions (`coe ask`) too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs that the store knows, oldest first."""
    from composer.runs import run_data, run_lines

    found = [run for run in known_runs() if every or run.origin is None or run.origin.kind == "run"]
    if as_json:
        print_json([run_data(run) for run in found])
        return
    for line in run_lines(found):
        typer.echo(line)


def status(
    name: RunName = None,
    questions: Annotated[bool, typer.Option("--questions", help="With --json: what each question cost.")] = False,
    as_json: AsJson = False,
) -> None:
    """How far a run is, what is missing, what it cost, and how to go on with it."""
    from composer.runs import find_run, status_data, status_lines

    found = find_run(known_runs(), name)
    if as_json:
        print_json(in_store(lambda store: status_data(store, found, questions=questions)))
        return
    for line in in_store(lambda store: status_lines(store, found)):
        typer.echo(line)


def replay_(
    question: Annotated[str, typer.Argument(metavar="ID", help="A trace id of the answers, or a question's id.")],
    run_name: Annotated[
        str | None, typer.Option("--run", help="The run of a question's id (else the last one).")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Combine the same drafts with this aggregator instead.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make one answer again from the same drafts, and say whether it and its trace are the same. Nobody is asked."""
    from dataclasses import asdict

    from composer.replay import find_question, replay
    from composer.runs import find_run, store_file
    from composer.show import printable

    every = known_runs()
    wanted = find_run(every, run_name) if run_name is not None else None
    run_id, trace = in_store(lambda store: find_question(store, question, wanted))
    done = replay(store_file(), find_run(every, run_id), trace, config=config, by=by)
    if as_json:
        print_json({**asdict(done), "equal": done.equal, "calls": 0})
    else:
        typer.echo(printable(str(done.again["answer"])))
        said = "answer and trace are the same" if done.equal else "NOT the same"
        if by is not None:
            same = done.again["answer"] == trace["answer"]
            said = f"{by} on the same drafts gives {'the same answer' if same else 'another answer'}"
        say(f"run {run_id}, question {trace['id']}: {said}; nobody was asked")
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

    from composer.compare import compare
    from composer.runs import find_run
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
    from composer.export import export
    from composer.outputs import form_of
    from composer.runs import find_run

    run_found, written = find_run(known_runs(), name), form_of(form)
    answered = in_store(lambda store: export(store, run_found, to, written))
    if as_json:
        print_json({"run_id": run_found.run_id, "file": str(to), "rows": run_found.questions, "answered": answered})
    say(f"{run_found.questions} rows, {answered} with an answer: {to}")


def stats(as_json: AsJson = False) -> None:
    """Size, rows, and per arm how many drafts there are and how often one was there when it was asked for."""
    from composer.runs import store_file
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

    from composer.runs import store_file
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

    from composer.runs import store_file
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

    from composer.runs import store_file
    from composer.store import DraftStore

    async def done() -> T:
        async with DraftStore.open(store_file()) as store:
            return await work(store)

    return asyncio.run(done())


def _said(answer: str | None, status: str | None, right: float | None) -> str:
    """One side of a changed row."""
    worth = "" if right is None else f" (right {right:g})"
    return f"{answer!r} {status or 'no answer'}{worth}"


def make_budget(calls: int | None, tokens: int | None, seconds: float | None, deadline: str | None = None) -> Budget:
    """The budget of the common options, counting from now."""
    from datetime import datetime

    from composer.budget import Budget, Limits, seconds_until

    left = seconds_until(deadline, datetime.now()) if deadline is not None else None
    return Budget(Limits(calls, tokens, seconds, left))


def _tell(done: Summary, out: Path) -> None:
    from composer.outputs import errors_file

    say(
        f"{done.queries} queries: {done.drafts} drafts ({done.cached} from the store), {done.loads} loads of "
        f"{done.distinct_models} models, {done.seconds:.1f} s; failed {done.failed}, degraded {done.degraded}, "
        f"bad rows {done.bad_rows}"
    )
    if done.predicted_loads is not None and done.asking_seconds is not None:
        known = "seconds unknown" if done.predicted_seconds is None else f"{done.predicted_seconds:.1f} s"
        most = f"; most of the time: {done.bottleneck}" if done.bottleneck else ""
        say(
            f"predicted {done.predicted_loads} loads and {known}, measured {done.loads} and {done.asking_seconds:.1f} s{most}"
        )
    if done.bad_rows:
        say(f"bad rows: see {errors_file(out)}")
