"""The verbs of files and of what the store knows: run, and what comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.cli_kit import Config, Ended, Memory, Offline, complain, make_pipeline, say
from composer.exits import EXHAUSTED, INCOMPLETE

if TYPE_CHECKING:
    from composer.batch import Summary
    from composer.budget import Budget

MaxCalls = Annotated[int | None, typer.Option("--max-calls", help="Most calls of experts; cached drafts are free.")]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", help="Most tokens, read and written.")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", help="Most seconds from now.")]


def mount(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    app.command()(run)


def run(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="JSONL rows (id, question[, choices, kind]) or an OpenAI batch.")
    ],
    out: Annotated[Path, typer.Option(help="The answers, one JSONL row per id.")],
    summary: Annotated[Path | None, typer.Option(help="Write counts, ledger and seconds here as JSON.")] = None,
    form: Annotated[str, typer.Option("--form", help="Of the answers: rows, or openai-batch.")] = "rows",
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
    config: Config = None,
    memory: Memory = None,
    offline: Offline = False,
) -> None:
    """Answer a file of questions, each expert loaded once. Stopped or killed and started again it goes on where it was."""
    from composer.stopping import stopping

    budget = make_budget(max_calls, max_tokens, max_seconds, deadline)
    with stopping(budget) as stopper:  # before the heavy imports: what they catch of a Ctrl-C is lost
        from asyncio import CancelledError

        from composer.batch import run_file
        from composer.outputs import form_of
        from composer.progress import watch
        from composer.resume import resume_command

        again = resume_command(source, out, config, *(["--form", form] if form != "rows" else []))
        pipeline = make_pipeline(config, memory, offline)
        try:
            with watch(pipeline, "drafts"):
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
    if done.unfinished:
        there = f"; the finished ones are in {done.partial}" if done.partial else ""
        by = done.stopped if stopper.why else f"stopped by {done.stopped}"
        complain(f"{by}: {done.unfinished} of {done.queries} questions are left{there}. Go on with:\n  {again}")
    if stopper.exit_code is not None:
        raise Ended(stopper.exit_code)
    if done.unfinished:
        raise typer.Exit(EXHAUSTED)
    if done.failed or done.bad_rows:
        raise typer.Exit(INCOMPLETE)


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
    if done.bad_rows:
        say(f"bad rows: see {errors_file(out)}")
