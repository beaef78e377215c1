"""`coe eval …`: measure systems on benchmarks. Mounted into the command by entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="eval",
    help="Measure systems on benchmarks; every command can write its rows as JSON in one common form.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def group() -> None:
    """Measure systems on benchmarks; every command can write its rows as JSON in one common form."""


@app.command()
def skills(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Questions per skill from held-out templates.")] = 40,
    memory: Annotated[str | None, typer.Option(help="Most memory for resident models, such as 1GiB.")] = None,
    offline: Annotated[bool, typer.Option("--offline", envvar="COE_OFFLINE", help="Fetch nothing.")] = False,
) -> None:
    """The packaged experts, unlabelled and mixed: does routing among them beat every simpler way to use them?"""
    from composer.config import load_settings, packaged_registry, parse_size
    from composer.pipeline import Pipeline
    from composer.progress import watch
    from composer.registry.progress import console_progress
    from evals.report import gaps, table, write_json
    from evals.skills import EXTRA, GROUPS, LATE, evaluate, with_extras

    def say(text: str) -> None:
        typer.echo(text, err=True)

    size = parse_size(memory, "--memory") if memory is not None else None
    settings = with_extras(load_settings(packaged_registry()))
    pipeline = Pipeline(settings, memory=size, offline=offline, progress=console_progress(), say=say)
    with watch(pipeline, "drafts"):
        report = evaluate(pipeline, n, say)
    if json_file is not None:
        write_json(json_file, "eval skills", f"packaged skill sets, {n} per skill", [*report.rows, *report.late])
    typer.echo("Four specialists and the generalist (accuracy in %, * = fixed before the test questions were opened)")
    for line in table(report.rows, (EXTRA, *GROUPS)):
        typer.echo(line)
    typer.echo("\nThe router against the others on all questions (points, paired 95 % intervals)")
    for line in gaps(report.gaps):
        typer.echo(line)
    typer.echo("\nA specialist for calendar dates joins: nothing is retrained but the union")
    for line in table(report.late, (LATE, *GROUPS)):
        typer.echo(line)
    for note in report.notes:
        say(note)
