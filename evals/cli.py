"""`coe eval …`: measure systems on benchmarks. Mounted into the command by entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.command.kit import say

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


Data = Annotated[Path, typer.Option("--data", help="Folder of NAME_questions.parquet and NAME_outcomes.parquet.")]
Benchmark = Annotated[str | None, typer.Option(help="Only this benchmark (several: parted by commas).")]
Pool = Annotated[str | None, typer.Option(help="Only the models of this pool of the folder's pools.json.")]
TestSplit = Annotated[str, typer.Option("--test-split", help="The split that is opened last.")]
HtmlFile = Annotated[Path | None, typer.Option("--html", help="Write a page with the figures here.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the rows here.")]
Offline = Annotated[bool, typer.Option("--offline", envvar="COE_OFFLINE", help="Fetch nothing.")]
Strict = Annotated[bool, typer.Option("--strict", help="Fail on profile questions that copy test questions.")]


@app.command()
def skills(
    json_file: JsonFile = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Questions per skill from held-out templates.")] = 40,
    memory: Annotated[str | None, typer.Option(help="Most memory for resident models, such as 1GiB.")] = None,
    offline: Offline = False,
) -> None:
    """The packaged experts, unlabelled and mixed: does routing among them beat every simpler way to use them?"""
    from composer.config import load_settings, packaged_registry, parse_size
    from composer.pipeline import Pipeline
    from composer.registry.progress import console_progress
    from composer.running.progress import watch
    from evals.report import gaps, table, write_json
    from evals.skills import EXTRA, GROUPS, LATE, evaluate, with_extras

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


@app.command()
def engines(
    json_file: JsonFile = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Questions per skill from held-out templates.")] = 40,
    python: Annotated[str | None, typer.Option(help="vLLM's interpreter (else COE_VLLM, .venv-vllm).")] = None,
    server: Annotated[bool, typer.Option("--server", help="Ask a vLLM server instead of vLLM in process.")] = False,
    offline: Offline = False,
) -> None:
    """The packaged specialists through llama.cpp and through vLLM: do they score alike?"""
    from composer.config import load_settings, packaged_registry
    from composer.registry.vllm_home import find_python
    from evals.engines import GROUPS, as_folder, evaluate, through_vllm, told
    from evals.report import table, write_json

    settings = load_settings(packaged_registry())
    found = find_python(python)
    folder = as_folder(settings, found, offline=offline)
    name, options = ("vllm", {}) if server else ("vllm in process", {"in_process": True})
    vllm = through_vllm(settings, folder, {"python": found, **options})
    report = evaluate({"llamacpp": settings, name: vllm}, n, say, offline=offline)
    if json_file is not None:
        write_json(json_file, "eval engines", f"packaged skill sets, {n} per skill", report.rows)
    typer.echo(
        "Each skill's specialist on its own questions (accuracy in %; interval, tokens, seconds: over all of them)"
    )
    for line in table(report.rows, GROUPS):
        typer.echo(line)
    typer.echo("\nDifference by engine (points, paired 95 % intervals)")
    for line in told(report):
        typer.echo(line)


@app.command()
def routers(
    data: Data,
    benchmark: Benchmark = None,
    pool: Pool = None,
    calls: Annotated[str, typer.Option(help="Budgets of mean calls per question.")] = "1,3,all",
    test_split: TestSplit = "dev",
    leave_out_model: Annotated[
        bool, typer.Option("--leave-out-model", help="Also add each model later, with 200 profile questions.")
    ] = False,
    strict: Strict = False,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    offline: Offline = False,
) -> None:
    """Which router is worth using? Every one of them, on recorded answers, without running a model."""
    from dataclasses import asdict

    from composer.config import load_settings, packaged_registry
    from composer.pipeline import Pipeline
    from composer.registry.progress import console_progress
    from evals.recorded import cases, check_calls
    from evals.report import routing_table, write_json, write_page
    from evals.routing import evaluate, left_out_models

    budgets = check_calls(calls)
    pipeline = Pipeline(load_settings(packaged_registry()), offline=offline, progress=console_progress(), say=say)
    reports, later = [], []
    for case in cases(data, benchmark, pool, pipeline, say):
        report = evaluate(
            case.record, case.vectors, group=case.name, calls=budgets, test_split=test_split, strict=strict, say=say
        )
        reports.append(report)
        typer.echo(f"{case.name}: {report.rows[0].n} test questions, {len(case.record.outcomes.arms)} arms")
        for line in routing_table(report.rows):
            typer.echo(line)
        if leave_out_model:
            rows = left_out_models(case.record, case.vectors, group=case.name, test_split=test_split, say=say)
            later += rows
            typer.echo("the default router, one model added later; the difference is to having had it from the start")
            for line in routing_table(rows):
                typer.echo(line)
        for gap in report.gaps:
            typer.echo(
                f"left out {gap.domain}: alarm on {100 * gap.recall:.0f} % of its {gap.n} questions, "
                f"on {100 * gap.false_alarms:.1f} % of the others"
            )
        for note in report.notes:
            typer.echo(f"note: {note}")
        typer.echo("")
    if json_file is not None:
        every = [row for report in reports for row in report.rows]
        write_json(
            json_file,
            "eval routers",
            str(data),
            [*every, *later],
            left_out_domains={report.group: [asdict(gap) for gap in report.gaps] for report in reports},
            notes={report.group: report.notes for report in reports},
        )
    if html is not None:
        write_page(html, str(data), reports)


@app.command()
def answers(
    data: Data,
    benchmark: Benchmark = None,
    pool: Pool = None,
    calls: Annotated[
        str, typer.Option(help="Budgets of mean calls per question: numbers, shares of all arms (75%), all.")
    ] = "1,3,50%,75%,all",
    test_split: TestSplit = "dev",
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also say what each model is worth to the others.")
    ] = False,
    strict: Strict = False,
    json_file: JsonFile = None,
    html: HtmlFile = None,
    offline: Offline = False,
) -> None:
    """Is asking several worth it? Every way to ask, to stop and to combine, on recorded answers."""
    from composer.config import load_settings, packaged_registry
    from composer.pipeline import Pipeline
    from composer.registry.progress import console_progress
    from evals.answers import evaluate
    from evals.recorded import cases, check_calls
    from evals.report import answers_table, write_answers_page, write_json
    from evals.worth import worth_of_arms

    budgets = check_calls(calls, shares=True)
    pipeline = Pipeline(load_settings(packaged_registry()), offline=offline, progress=console_progress(), say=say)
    reports, without = [], []
    for case in cases(data, benchmark, pool, pipeline, say):
        report = evaluate(
            case.record, case.vectors, group=case.name, calls=budgets, test_split=test_split, strict=strict, say=say
        )
        reports.append(report)
        typer.echo(f"{case.name}: {report.rows[0].n} test questions, {len(case.record.outcomes.arms)} arms")
        for line in answers_table(report.rows):
            typer.echo(line)
        for row in report.rows:
            if row.aurc_to_vote_share is not None:
                gap, low, high = row.aurc_to_vote_share
                typer.echo(f"{row.system}: aurc less that of the vote share {gap:+.4f} [{low:+.4f}, {high:+.4f}]")
        if leave_one_out and case.record.voted:
            rows = worth_of_arms(case.record, case.vectors, group=case.name, test_split=test_split, say=say)
            without += rows
            typer.echo("all arms but one, learnt; the difference is to all of them")
            for line in answers_table(rows):
                typer.echo(line.replace("to majority", "     to all"))
        for note in report.notes:
            typer.echo(f"note: {note}")
        typer.echo("")
    if json_file is not None:
        every = [row for report in reports for row in report.rows]
        notes = {report.group: report.notes for report in reports}
        write_json(json_file, "eval answers", str(data), [*every, *without], notes=notes)
    if html is not None:
        write_answers_page(html, str(data), reports)


@app.command()
def retrieval(
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="COE_DATA", help="Folder with benchmarks/strategyqa_dev.json."),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Some of invented, strategyqa, cards, injections, parted by commas.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=160, help="Questions about invented things (a multiple of 8).")] = 320,
    json_file: JsonFile = None,
    offline: Offline = False,
) -> None:
    """When is it worth to look things up, and what does it do to answers? Every gate against never, always and the oracle,
    experts that write what they know with a liar among them, and hostile passages; live, on the packaged model."""
    from evals.reading import run

    for line in run(data, benchmark, n, json_file, offline=offline, say=say):
        typer.echo(line)


@app.command()
def contrast(
    benchmark: Annotated[
        str | None,
        typer.Option(help="Some of the skills, arithmetic-3digit, wordproblems, reading, parted by commas (else all)."),
    ] = None,
    n: Annotated[
        int, typer.Option("--n", min=8, help="Test questions per group; half as many choose the numbers.")
    ] = 80,
    betas: Annotated[str, typer.Option(help="How much of the partner is tried.")] = "0.1,0.3,0.5,0.7,0.9",
    alphas: Annotated[str, typer.Option(help="Which shares of the best token make one plausible.")] = "0.1",
    engine: Annotated[
        str, typer.Option(help="llamacpp; or vllm (in process) or transformers, by the interpreter COE_VLLM.")
    ] = "llamacpp",
    json_file: JsonFile = None,
    offline: Offline = False,
) -> None:
    """Does it help to take off what a weaker source would say? Every partner and a random one against greedy decoding and
    plain sampling, per skill set; the numbers are chosen on calibration."""
    from dataclasses import asdict
    from tempfile import TemporaryDirectory

    from composer.command.kit import numbers
    from composer.config import load_settings, packaged_registry
    from composer.errors import InputError, suggest
    from evals.contrast import GROUPS, lines, run
    from evals.engines import served_by
    from evals.report import write_json

    groups = GROUPS if benchmark is None else tuple(name.strip() for name in benchmark.split(","))
    for name in groups:
        if name not in GROUPS:
            raise InputError(f"nothing is called {name!r} here", where="--benchmark", remedy=suggest(name, GROUPS))
    own, least = numbers(betas, "--betas", 10), numbers(alphas, "--alphas", 1)
    if not own or not least:
        raise InputError("there is nothing to try", where="--betas, --alphas", remedy="write 0.1,0.5")
    packaged = load_settings(packaged_registry())
    settings = served_by(packaged, engine, offline=offline)
    ranked = packaged if settings is not packaged else None  # its profile is of the packaged weights
    with TemporaryDirectory() as folder:
        report = run(
            settings, engine, groups, n, Path(folder), ranked=ranked, betas=own, alphas=least, offline=offline, say=say
        )
    for line in lines(report):
        typer.echo(line)
    if json_file is not None:
        more = {name: dict(getattr(report, name)) for name in ("chosen_by", "matched", "notes")}
        gaps = {group: [asdict(one) for one in found] for group, found in report.gaps.items()}
        write_json(json_file, "eval contrast", f"{n} per group", report.rows, gaps=gaps, **more)


@app.command()
def live(
    registry: Annotated[Path | None, typer.Option(help="The registry file (else the packaged one).")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="Some of skills, twoskill, noskill, bbh, parted by commas (else all).")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=8, help="Test questions per group; half as many choose.")] = 60,
    merger: Annotated[str | None, typer.Option(help="The expert that merges (else the generalist).")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", envvar="COE_DATA", help="Folder with benchmarks/bbh.", show_envvar=False)
    ] = None,
    drafts: Annotated[
        Path | None, typer.Option("--drafts", help="Folder to keep drafts in: an interrupted run goes on there.")
    ] = None,
    json_file: JsonFile = None,
    offline: Offline = False,
) -> None:
    """Does composing pay with models in the loop? Votes, mergers, discussions, plans and strategies against every single expert
    and self-consistency at equal tokens."""
    from contextlib import ExitStack
    from dataclasses import asdict
    from importlib.util import find_spec
    from tempfile import TemporaryDirectory

    from composer.config import load_settings, packaged_registry
    from composer.errors import InputError, suggest
    from evals.live import measure
    from evals.live_programs import programs
    from evals.live_questions import BBH, GROUPS
    from evals.live_systems import with_systems
    from evals.live_table import lines
    from evals.report import write_json

    every = [group for group in GROUPS if group != BBH or data is not None]
    groups = every if benchmark is None else [name.strip() for name in benchmark.split(",")]
    for name in groups:
        if name not in GROUPS:
            raise InputError(f"nothing is called {name!r} here", where="--benchmark", remedy=suggest(name, GROUPS))
    if len(groups) < len(GROUPS) and benchmark is None:
        say("bbh is left out: name the folder of the recorded data with --data, or COE_DATA")
    base = load_settings(registry or packaged_registry())
    sandbox = find_spec("pydantic_monty") is not None and base.path == packaged_registry()
    if not sandbox:
        say(
            "strategies are left out: they need the packaged registry and pip install 'composition-of-experts[sandbox]'"
        )
    planner = next((name for name, expert in base.experts.items() if expert.writes == "plans"), None)
    settings = with_systems(base, merger or base.generalist.name, planner)
    with ExitStack() as stack:
        folder = drafts or Path(stack.enter_context(TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        more = programs(base, folder, planner, offline=offline, say=say) if sandbox else None
        report = measure(settings, groups, n, folder, data=data, programs=more, offline=offline, say=say)
    for line in lines(report):
        typer.echo(line)
    if json_file is not None:
        gaps = {group: [asdict(one) for one in found] for group, found in report.gaps.items()}
        write_json(json_file, "eval live", f"about {n} per group", report.rows, gaps=gaps, notes=dict(report.notes))
