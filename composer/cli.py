"""The command `coe`: parses, calls, prints. Everything heavy is imported by the verb that needs it."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from composer.command import experts, fit, index, models, run, runs
from composer.command.kit import (
    AsJson,
    Config,
    Memory,
    Offline,
    complain,
    end_on_sigterm,
    end_quietly,
    print_json,
    question_text,
    say,
    signalled,
)
from composer.command.kit import make_pipeline as _pipeline
from composer.errors import ComposerError
from composer.exits import EXHAUSTED, INCOMPLETE
from composer.serve.command import serve
from routers.errors import RouterError

app = typer.Typer(
    name="coe",
    help="Composition of experts: routes each question to the language models and adapters that are good at it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=True,
)
experts.mount(app)
app.add_typer(models.models, name="models")
app.add_typer(index.index, name="index")
app.add_typer(fit.fit, name="fit")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    config: Config = None,
    as_json: AsJson = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show route and drafts below the answer.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page of route, drafts and costs here.")] = None,
    model: Annotated[
        str, typer.Option(help="Who answers: `auto`, or an expert or a pipeline of the registry by name.")
    ] = "auto",
    max_calls: run.MaxCalls = None,
    max_tokens: run.MaxTokens = None,
    max_seconds: run.MaxSeconds = None,
    memory: Memory = None,
    offline: Offline = False,
) -> None:
    """Ask one question and print the answer."""
    import time

    from composer.jsonl import check_outputs, write_atomic
    from composer.running.batch import ask_once
    from composer.show import drafts_text, printable, route_data, route_text
    from composer.traced import calls_of, cut_told, settled_text, silence_of

    if html is not None:
        check_outputs([html], [])
    began, budget = time.monotonic(), run.make_budget(max_calls, max_tokens, max_seconds)
    with _pipeline(config, memory, offline) as pipeline:
        answer, trace, route, stopped = ask_once(
            pipeline, question_text(question), budget, by=model, signalled=signalled
        )
    if html is not None:
        from composer.trace_page import trace_page

        with write_atomic(html) as file:
            file.write(trace_page(trace, route))
    if as_json:
        drafts = [
            {
                "name": draft["name"],
                "score": trace["route"]["scores"].get(draft["name"]),
                **{key: draft[key] for key in ("draft", "seconds", "cached", "error")},
                "tokens": draft["tokens_out"],
                "role": draft.get("role", "draft"),
            }
            for draft in trace["drafts"]
        ]
        # who was asked beside them; what these wrote is not kept, but for the text in `settled`
        others = [
            {**{key: call[key] for key in ("name", "role", "seconds", "cached")}, "tokens": call["tokens_out"]}
            for call in trace.get("beside", ())
        ]
        print_json(
            {
                "answer": answer.text if answer.status != "failed" else None,
                "status": answer.status,
                "sure": answer.sure,
                "calibrated": answer.calibrated,
                "marks": list(answer.marks),
                "experts": [*drafts, *others],
                "settled": settled_text(trace),
                "route": route_data(trace["question"], route),
                "stopped": budget.why if stopped else None,
                "seconds": round(time.monotonic() - began, 3),
                "tokens": sum(call["tokens_out"] for call in calls_of(trace) if not call["cached"]),
                "trace_id": answer.trace_id,
            }
        )
    else:
        if answer.status != "failed":
            typer.echo(printable(answer.text) + ("\n" if explain else ""))
        if explain:
            typer.echo(route_text(route) + "\n" + drafts_text(trace))
    if stopped:
        made = "the answer is made of the drafts that were there" if answer.status != "failed" else "no draft was there"
        complain(f"stopped by {budget.told}: {made}")
        raise typer.Exit(EXHAUSTED)
    if answer.status == "failed":
        if trace["abstained"]:
            complain(f"not answered: {trace['abstained']}")
            raise typer.Exit(INCOMPLETE)
        for draft in trace["drafts"]:
            complain(f"{draft['name']}: {silence_of(draft)}")
        raise typer.Exit(INCOMPLETE)
    if answer.status == "degraded" and (cut := cut_told(trace)):
        say(f"({cut})")


@app.command()
def route(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    config: Config = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Show who would answer a question and why; nothing is generated."""
    from composer.show import route_data, route_text

    text = question_text(question)
    [found] = _pipeline(config, None, offline).route([text])
    if as_json:
        print_json(route_data(text, found))
    else:
        typer.echo(route_text(found))


run.mount(app)
runs.mount(app)


@app.command()
def profile(
    source: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="JSONL: id, question, answer[, choices, task, split, kind].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write (default: in the user's data folder).")] = None,
    run_code: Annotated[
        bool,
        typer.Option("--run-code", help="Run the programs experts write against the rows' tests, on this machine."),
    ] = False,
    config: Config = None,
    memory: Memory = None,
    offline: Offline = False,
) -> None:
    """Measure every expert on labelled questions (without FILE: the packaged ones); the router learns from it."""
    from composer.profiling import profile_file
    from composer.running.progress import watch

    pipeline = _pipeline(config, memory, offline)
    with watch(pipeline, "drafts"):
        report = profile_file(pipeline, source, out, run_code=run_code)
    for line in report.lines():
        typer.echo(line)
    if report.errors or report.failed:
        raise typer.Exit(INCOMPLETE)


app.command()(serve)


@app.command()
def schema() -> None:
    """Print the JSON schema of experts.yaml, for editors."""
    from composer.config import schema as registry_schema

    print_json(registry_schema())


@app.command("eval", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def evaluate(context: typer.Context) -> None:
    """Measure systems on benchmarks: see `coe eval --help`."""
    from importlib.metadata import entry_points

    points = entry_points(group="coe.commands", name="eval")
    if not points:
        raise ComposerError("the package `evals` is not installed", remedy="pip install composition-of-experts")
    [point] = points
    point.load()(args=context.args, prog_name="coe eval")


def main() -> None:
    """Run the command; errors of ours become a message and an exit code, never a traceback."""
    # numpy's matrices are small here, and starting threads for them takes 60 CPU ms of every command
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(20_000, 20, 100)  # imports make no cycles worth the tenth of their time that looking costs
    atexit.register(gc.freeze)  # nor does what is left at the end: looking through all of it takes 45 CPU ms
    end_on_sigterm()
    try:
        app()
    except (ComposerError, RouterError) as why:
        complain(str(why))
        sys.exit(why.exit_code)
    except SystemExit as end:
        end_quietly(end)
