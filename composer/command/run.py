"""The verbs that ask many questions: run, and calibrate, which says how fast that will be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.command.kit import (
    AsJson,
    Config,
    Ended,
    FormName,
    Memory,
    Offline,
    complain,
    make_pipeline,
    print_json,
    say,
)
from composer.errors import InputError
from composer.exits import DEGRADED, EXHAUSTED, INCOMPLETE

if TYPE_CHECKING:
    from composer.budget import Budget
    from composer.running.batch import Summary

MaxCalls = Annotated[int | None, typer.Option("--max-calls", help="Most calls of experts; cached drafts are free.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Most tokens, read and written.")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", help="Most seconds from now.")]


def mount(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(run)
    app.command("calibrate")(calibrate_)


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
    dedupe: Annotated[
        str | None,
        typer.Option(metavar="first", help="Of rows with the same id keep the first; the others become bad rows."),
    ] = None,
    max_degraded: Annotated[
        float | None,
        typer.Option("--max-degraded", metavar="SHARE", help="Exit with 4 if more of the answers are degraded: 0.1."),
    ] = None,
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
    from composer.running.stopping import stopping

    if max_degraded is not None and not 0 <= max_degraded <= 1:
        raise InputError(
            f"{max_degraded:g} is no share", where="--max-degraded", remedy="write a number from 0 to 1, such as 0.1"
        )
    if dry_run:
        from composer.jsonl import dedupe_of
        from composer.running.forecasting import preview_file

        kept = dedupe_of(dedupe) if dedupe is not None else None
        preview = preview_file(make_pipeline(config, memory, offline), source, dedupe=kept)
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
        from itertools import pairwise

        from composer.jsonl import dedupe_of
        from composer.running.batch import run_file
        from composer.running.outputs import form_of
        from composer.running.progress import watch
        from composer.running.resume import resume_command

        kept = dedupe_of(dedupe) if dedupe is not None else None
        more = {
            "--form": form if form != "rows" else None,
            "--dedupe": kept,
            "--memory": memory,
            "--summary": summary,
            "--max-degraded": max_degraded,
        }
        told = [word for name, value in more.items() if value is not None for word in (name, str(value))]
        anywhere = [
            str(Path(word).resolve()) if before == "--summary" else word for before, word in pairwise(["", *told])
        ]
        again = resume_command(source, out, config, *told)
        pipeline = make_pipeline(config, memory, offline)
        try:
            with watch(pipeline, "drafts", lambda: budget.stopped, routed=True):
                done = run_file(
                    pipeline,
                    source,
                    out,
                    summary=summary,
                    budget=budget,
                    accept_change=accept_config_change,
                    form=form_of(form),
                    dedupe=kept,
                    guard=stopper.guarding,
                    options=anywhere,
                )
        except CancelledError:
            if stopper.exit_code is None:
                raise
            complain(f"{stopper.why}; what was finished is in the store. Go on with:\n  {again}")
            raise Ended(stopper.exit_code) from None
    tell(done, out)
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
    degraded = done.degraded / max(1, done.queries)
    too_many = max_degraded is not None and degraded > max_degraded
    if too_many:
        complain(
            f"{done.degraded} of {done.queries} answers are degraded, {100 * degraded:.1f} %: "
            f"more than --max-degraded {max_degraded:g} allows"
        )
    if done.failed or done.bad_rows:
        raise typer.Exit(INCOMPLETE)
    if too_many:
        raise typer.Exit(DEGRADED)


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


def make_budget(calls: int | None, tokens: int | None, seconds: float | None, deadline: str | None = None) -> Budget:
    """The budget of the common options, counting from now."""
    from datetime import datetime

    from composer.budget import Budget, Limits, seconds_until

    left = seconds_until(deadline, datetime.now()) if deadline is not None else None
    return Budget(Limits(calls, tokens, seconds, left))


def tell(done: Summary, out: Path) -> None:
    """What a run did, for people."""
    from composer.running.outputs import errors_file
    from composer.running.results import MADE
    from composer.show import many

    say(
        f"{many(done.queries, 'query', 'queries')}: {many(done.drafts, 'draft')} ({done.cached} from the store), {many(done.loads, 'load')} of "
        f"{many(done.distinct_models, 'model')}, {done.seconds:.1f} s; failed {done.failed}, degraded {done.degraded}, "
        f"bad rows {done.bad_rows}"
    )
    if done.predicted_loads is not None and done.asking_seconds is not None:
        known = "seconds unknown" if done.predicted_seconds is None else f"{done.predicted_seconds:.1f} s"
        most = f"; most of the time: {done.bottleneck}" if done.bottleneck else ""
        first = " for the first drafts" if done.merges else ""
        say(
            f"predicted {many(done.predicted_loads, 'load')} and {known}{first}, measured {done.loads} and {done.asking_seconds:.1f} s{most}"
        )
    if done.merges:
        skipped = {why: count for why, count in done.merges.items() if why != MADE}
        told = ", ".join(f"{count}: {why}" for why, count in sorted(skipped.items()))
        made = done.merges.get(MADE, 0)
        say(
            f"settled {many(made, 'question')} after the drafts, skipped {sum(skipped.values())}"
            + (f" ({told})" if told else "")
        )
    if done.bad_rows:
        say(f"bad rows: see {errors_file(out)}")
