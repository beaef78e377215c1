"""The verbs that learn from outcomes: `coe fit router`, `answers`, `gate` and `contrast`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.command.kit import AsJson, Config, Offline, numbers, print_json, say
from composer.command.kit import make_pipeline as _pipeline
from composer.errors import InputError

if TYPE_CHECKING:
    from composer.pipeline import Pipeline

fit = typer.Typer(
    help="Learn from outcomes; what is learnt is installed only if a test shows that it helps.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@fit.command("router")
def fit_router_(config: Config = None, as_json: AsJson = False, offline: Offline = False) -> None:
    """Learn a router from what the experts have shown; it is installed only if it beats the best single expert."""
    from dataclasses import asdict

    from composer.learning.router import fit_router, install, outcomes_of
    from composer.learning.trust import install_trust, told
    from composer.profile import find_profile

    pipeline = _pipeline(config, None, offline)
    registry = pipeline.registry
    profile, notes = find_profile(registry)
    for note in notes:
        say(note)
    questions, outcomes = outcomes_of(profile, registry.arms(), registry.generalist)
    fitted = fit_router(questions, outcomes, registry.generalist, say)
    folder = install(fitted, registry, questions, outcomes)
    for line in told(install_trust(_pipeline(config, None, offline))):
        say(line)
    if as_json:
        print_json({**asdict(fitted), "router": None, "folder": str(folder)})
        return
    for line in fitted.lines():
        typer.echo(line)
    say(f"written to {folder}")


@fit.command("answers")
def fit_answers_(
    config: Config = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Recorded answers instead of the profile (nothing is installed).")
    ] = None,
    pool: Annotated[str | None, typer.Option(help="With --data: only the models of this pool.")] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", help="Labelled JSONL: use the answers that runs in the store gave to it.")
    ] = None,
    calls: Annotated[
        str, typer.Option(help="Most mean calls per question: a number, N% of all experts, or all.")
    ] = "3",
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also say what each expert is worth to the others.")
    ] = False,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="With --runs: run programs against the rows' tests, on this machine.")
    ] = False,
    mergers: Annotated[
        str | None,
        typer.Option("--mergers", help="Choose who merges instead: experts, parted by commas, or all of them (`all`)."),
    ] = None,
    labelled: Annotated[
        Path | None,
        typer.Option("--labelled", help="With --mergers: the questions that were profiled (else the packaged ones)."),
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="With --mergers: most of them per task.")] = 40,
    scorer: Annotated[
        str | None,
        typer.Option(
            help="Instead: fit how this expert's ratings score answers (to --runs, else to the packaged questions)."
        ),
    ] = None,
    plans: Annotated[
        Path | None,
        typer.Option("--plans", help="Labelled JSONL: only learn which plans are right, to show them to the planner."),
    ] = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Is asking several experts worth it here? Rehearsed on answers that are there already; written into the registry
    file if it beats the best single expert. With --mergers: who is to merge, task by task, where a pipeline says `by: auto`."""
    from dataclasses import asdict

    told_of = {"--scorer": scorer, "--plans": plans, "--mergers": mergers}
    learns = [name for name, value in told_of.items() if value is not None]
    if len(learns) > 1:
        raise InputError(f"{' and '.join(learns)} learn different things", remedy="run one after the other")
    if learns in (["--scorer"], ["--plans"]):
        own = {"--pool": pool, "--leave-one-out": leave_one_out, "--run-code": run_code, "--labelled": labelled}
        more = {"--data": data, "--runs": runs} if plans is not None else {}
        if idle := [name for name, value in {**more, **own}.items() if value]:
            raise InputError(f"{learns[0]} does nothing with {', '.join(idle)}", remedy=f"leave out {', '.join(idle)}")
    if scorer is not None:
        _fit_scorer(scorer, runs, data, config, as_json, offline)
        return
    if plans is not None:
        _fit_plans(_pipeline(config, None, offline), plans, as_json)
        return
    from composer.fitting.answering import fit_and_install

    pipeline = _pipeline(config, None, offline)
    if mergers is not None:
        if data or pool or runs or leave_one_out or run_code:
            raise InputError("--mergers chooses by the profile", remedy="leave out the other options, or --mergers")
        _fit_mergers(pipeline, mergers, labelled, prompts, as_json=as_json)
        return
    if labelled is not None:
        raise InputError("--labelled goes with --mergers", remedy="add --mergers all, or leave it out")
    fitted, told = fit_and_install(
        pipeline,
        data=data,
        pool=pool,
        runs=runs,
        calls=calls,
        leave_one_out=leave_one_out,
        run_code=run_code,
        say=say,
    )
    if as_json:
        print_json({**asdict(fitted), "router": None, "aggregator": None, "installed": told})
        return
    for line in fitted.lines():
        typer.echo(line)
    say(told)


def _fit_mergers(pipeline: Pipeline, names: str, labelled: Path | None, most: int, *, as_json: bool) -> None:
    from dataclasses import asdict

    from composer.fitting.mergers import experts_of, fit_mergers
    from composer.jsonl import read_questions
    from composer.profile import find_profile
    from composer.profiling import ITEMS
    from composer.running.progress import watch

    experts = experts_of(pipeline, names)
    profile, notes = find_profile(pipeline.registry)
    for note in notes:
        say(note)
    rows = read_questions(labelled or ITEMS, labelled=True).rows
    with watch(pipeline, "drafts"):
        found = fit_mergers(pipeline, profile, rows, experts, most=most, say=say)
    if as_json:
        print_json(asdict(found))
        return
    for line in found.lines():
        typer.echo(line)


def _fit_scorer(
    by: str, labelled: Path | None, data: Path | None, config: Path | None, as_json: bool, offline: bool
) -> None:
    from dataclasses import asdict

    from composer.errors import InputError
    from composer.fitting.scorer import fit_scorer
    from composer.jsonl import read_questions
    from composer.profiling import ITEMS
    from composer.running.progress import watch

    if data is not None:
        raise InputError(
            "recorded answers have no drafts that could be rated", where="--data", remedy="use --runs FILE"
        )
    pipeline = _pipeline(config, None, offline)
    rows = read_questions(labelled or ITEMS, labelled=True).rows
    with watch(pipeline, "drafts"):
        found = fit_scorer(pipeline, by, rows, say=say)
    if as_json:
        print_json({**asdict(found), "installed": found.installed})
        return
    for line in found.lines():
        typer.echo(line)


def _fit_plans(pipeline: Pipeline, labelled: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from composer.fitting.plans import learn_plans
    from composer.jsonl import read_questions
    from composer.places import plans_folder
    from composer.running.progress import watch

    rows = read_questions(labelled, labelled=True).rows
    with watch(pipeline, "drafts"):
        learnt = learn_plans(pipeline, rows, say=say)
    folder = plans_folder(pipeline.registry)
    if as_json:
        tries = {"first": [asdict(one) for one in learnt.first], "more": [asdict(one) for one in learnt.more]}
        kept = {
            "gain": learnt.gain,
            "held": learnt.held,
            "installed": learnt.installed,
            "remembered": len(learnt.memory),
        }
        print_json({**tries, **kept, "folder": str(folder)})
        return
    for line in learnt.lines():
        typer.echo(line)
    if learnt.installed:
        say(f"written to {folder}")


@fit.command("gate")
def fit_gate_(
    labelled: Annotated[
        Path | None, typer.Argument(help="Labelled JSONL to ask both ways first; else what the profile has is used.")
    ] = None,
    value: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of computing that a right answer is worth.")
    ] = None,
    traffic: Annotated[
        Path | None, typer.Option("--traffic", help="Questions as `coe run` takes them: what a gate would do there.")
    ] = None,
    drafts: Annotated[bool, typer.Option(help="Also try gates that look at short drafts.")] = True,
    judge: Annotated[
        str | None, typer.Option(help="Of personas: the expert that judges style where something is written.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """When is it worth to read, and for which questions to speak as a persona? Learnt from questions answered both ways; a gate
    is installed if it earns more than never and always reading, and open to a persona only for intents where it is shown to help."""
    from dataclasses import asdict

    from composer.fitting.gate import Weighed, default_value, fit_gates
    from composer.fitting.personas import WeighedPersona, fit_personas
    from composer.jsonl import read_questions
    from composer.profile import find_profile
    from composer.profiling import profile_file
    from composer.running.progress import watch
    from composer.state import Query

    pipeline = _pipeline(config, None, offline)
    rows = read_questions(traffic).rows if traffic is not None else ()
    if labelled is not None:
        ways = (*pipeline.settings.reading, *pipeline.settings.personas)
        both = {name for arm in ways for name in (arm.name, arm.expert)}
        with watch(pipeline, "drafts"):
            report = profile_file(
                pipeline, labelled, None, only=[name for name in pipeline.settings.arms if name in both]
            )
        for line in report.lines():
            say(line)
        pipeline = _pipeline(config, None, offline)
    profile, notes = find_profile(pipeline.registry)
    for note in notes:
        say(note)
    settings = pipeline.settings
    weighed: list[WeighedPersona] = []
    found: list[Weighed] = []
    if settings.personas:
        weighed = fit_personas(pipeline, profile, judge=judge, say=say)
        steps = (settings.pipeline, *settings.pipelines.values())
        if any(record.open for one in weighed for record in one.records) and not any(
            step.use == "persona" for own in steps for step in own
        ):
            say("no pipeline applies it yet: write `- use: persona` after `decide` in the registry")
    elif judge is not None:
        raise InputError("this registry declares no personas to judge", remedy="add `personas:` to an expert")
    if settings.reading or not settings.personas:
        found = fit_gates(
            pipeline,
            profile,
            value=default_value(pipeline) if value is None else value,
            drafts=drafts,
            traffic=[Query(row.id, row.text, row.choices, row.kind) for row in rows],
            say=say,
        )
    if as_json:
        told = {"personas": [asdict(one) for one in weighed]} if settings.personas else {}
        print_json({"arms": [asdict(one) for one in found], **told})
        return
    for line in (line for own in (weighed, found) for one in own for line in one.lines()):
        typer.echo(line)


@fit.command("contrast")
def fit_contrast_(
    labelled: Annotated[
        Path | None, typer.Argument(help="Labelled JSONL; else the packaged questions of the default experts.")
    ] = None,
    betas: Annotated[str, typer.Option(help="How much of the partner is tried, parted by commas.")] = "",
    alphas: Annotated[str, typer.Option(help="Which shares of the best token make one plausible.")] = "",
    config: Config = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Does it help to take off what a weaker source would say? Every declared contrast is tried; one is turned on where
    held-out questions show that an arm is right more often with it."""
    from dataclasses import asdict

    from composer.fitting.contrast import ALPHAS, BETAS, fit_contrasts
    from composer.jsonl import read_questions
    from composer.profiling import ITEMS
    from composer.running.progress import watch

    own, least = numbers(betas, "--betas", 10), numbers(alphas, "--alphas", 1)
    pipeline = _pipeline(config, None, offline)
    rows = [row for row in read_questions(labelled or ITEMS, labelled=True).rows if row.split != "test"]
    with watch(pipeline, "drafts"):
        found = fit_contrasts(pipeline, rows, betas=own or BETAS, alphas=least or ALPHAS, say=say)
    steps = (pipeline.settings.pipeline, *pipeline.settings.pipelines.values())
    if any(one.installed for one in found) and not any(step.use == "contrast" for own in steps for step in own):
        say("no pipeline applies it yet: write `- use: contrast` after `decide` in the registry")
    if as_json:
        print_json({"arms": [{**asdict(one), "installed": one.installed} for one in found]})
        return
    for one in found:
        for line in one.lines():
            typer.echo(line)
