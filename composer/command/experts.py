"""The verbs of the registry's experts: what there is, whether it works, and how more of it gets in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from composer.command.kit import AsJson, Config, Memory, Offline, make_pipeline, print_json, say
from composer.command.train import train
from composer.exits import CORRUPT, UNAVAILABLE

if TYPE_CHECKING:
    from composer.pipeline import Pipeline

Base = Annotated[
    str | None, typer.Option(help="The model it was trained on: its name in the registry, or a GGUF file.")
]


def mount(app: typer.Typer) -> None:
    """Add the verbs to the command."""
    experts = typer.Typer(help="The experts of the registry.", no_args_is_help=True, rich_markup_mode=None)
    experts.command("list")(list_)
    experts.command()(check)
    experts.command()(add)
    experts.command()(convert)
    experts.command()(train)
    experts.command()(select)
    experts.command()(lock)
    experts.command()(verify)
    app.add_typer(experts, name="experts")


def list_(config: Config = None, as_json: AsJson = False) -> None:
    """List the experts of the registry."""
    from composer.config import find_registry, load_settings

    settings = load_settings(find_registry(config))
    rows = [
        {
            "name": expert.name,
            "model": expert.model,
            "adapter": str(expert.adapter) if expert.adapter else None,
            "skills": list(expert.skills),
            "generalist": expert.generalist,
            "answers": expert.answers,
            "writes": expert.writes,
            "description": expert.description,
        }
        for expert in settings.experts.values()
    ]
    if as_json:
        print_json(rows)
        return
    typer.echo(f"registry {settings.path}")
    width = max(len(expert.name) for expert in settings.experts.values())
    for expert in settings.experts.values():
        mixed = expert.adapter.mixture if expert.adapter else None
        what = f"{expert.model} + {mixed or 'adapter'}" if expert.adapter else expert.model
        skills = f" [{', '.join(expert.skills)}]" if expert.skills else " [generalist]" if expert.generalist else ""
        skills = f" [writes {expert.writes}]" if expert.writes != "answers" else skills
        typer.echo(f"{expert.name:{width}}  {what}{skills}  {expert.description}".rstrip())


def check(config: Config = None, as_json: AsJson = False, memory: Memory = None, offline: Offline = False) -> None:
    """Open every host, ask every expert one question, and prove that each adapter changes its model."""
    import asyncio
    from dataclasses import asdict

    from composer.registry.check import Check, check_experts
    from composer.show import printable

    pipeline = make_pipeline(config, memory, offline)

    async def collect() -> list[Check]:
        return [found async for found in check_experts(pipeline.registry, memory=pipeline.memory)]

    found = asyncio.run(collect())
    if as_json:
        print_json([asdict(row) for row in found])
    for row in found if not as_json else []:
        if row.ok:
            change = (
                "" if row.difference is None else f"  adapter changes log-probabilities by up to {row.difference:.2f}"
            )
            typer.echo(f"ok    {row.expert} on {row.model}: {printable(row.answer)!r}{change}")
        else:
            typer.echo(f"BAD   {row.expert} on {row.model}: {row.problem}")
    if not all(row.ok for row in found):
        raise typer.Exit(UNAVAILABLE)


def add(
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A PEFT folder, a GGUF adapter, or a GGUF model.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call it (else after the file).")] = None,
    base: Annotated[
        str | None, typer.Option(help="The registry's model it was trained on (else by its layers).")
    ] = None,
    skills: Annotated[
        str | None, typer.Option(help="What it claims, parted by commas (else what it shows when measured).")
    ] = None,
    sum_: Annotated[
        str | None,
        typer.Option("--sum", help="Instead of PATH: a mixture of experts' adapters, such as law=0.5,tax=0.5."),
    ] = None,
    cross: Annotated[
        str | None, typer.Option("--cross", help="As --sum, but their matrices are added, with cross terms.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Of a mixture: the nearest adapter of this rank.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled JSONL to measure it on (else the packaged).")
    ] = None,
    no_profile: Annotated[bool, typer.Option("--no-profile", help="Write it down, and measure nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be written.")] = False,
    config: Config = None,
    memory: Memory = None,
    offline: Offline = False,
) -> None:
    """Add an expert to the registry file: checked against its base, measured, and written with its skills."""
    from composer.adding import add as add_expert
    from composer.adding import plan_file, plan_mixture
    from composer.errors import InputError
    from composer.rewrite import is_packaged, with_rows

    given = [one for one in (path, sum_, cross) if one is not None]
    if len(given) != 1 or (rank is not None and path is not None):
        raise InputError(
            "expected one of PATH, --sum and --cross (and --rank only with a mixture)", where="coe experts add"
        )
    pipeline = make_pipeline(config, memory, offline)
    settings = pipeline.settings
    if is_packaged(settings.path) and not dry_run:
        raise InputError(
            "the packaged registry is not changed",
            where=str(settings.path),
            remedy="copy it to ./experts.yaml, and run the command again there",
        )
    if path is not None:
        plan = plan_file(pipeline.registry, path, name=name, base=base)
    else:
        form = "sum" if sum_ is not None else "cross"
        plan = plan_mixture(pipeline.registry, _weights(sum_ or cross or "", form), form=form, rank=rank, name=name)
    claimed = None if skills is None else [skill.strip() for skill in skills.split(",") if skill.strip()]
    if dry_run:
        for note in plan.notes:
            say(note)
        row = dict(plan.row) if claimed is None else {**plan.row, "skills": claimed}
        if plan.model is not None:
            typer.echo(with_rows("models:\n", "models", {str(plan.row["model"]): plan.model}), nl=False)
        typer.echo(with_rows("experts:\n", "experts", {plan.name: row}), nl=False)
        return
    added = add_expert(
        settings,
        plan,
        lambda place: make_pipeline(place, memory, offline),
        skills=claimed,
        data=data,
        measured=not no_profile,
    )
    for line in added.lines:
        say(line)
    found = added.plan.row.get("skills")
    typer.echo(f"{added.plan.name}: {', '.join(found) if found else 'no skill shown'}, written into {settings.path}")
    if not found and not no_profile:
        say(
            f"as it is no question will be routed to {added.plan.name}: it was better at none of what it was measured on"
        )
        say(
            f"  next: measure all experts on questions of what it is good at: coe profile FILE --config {settings.path}"
        )


def convert(
    folder: Annotated[Path, typer.Argument(help="A PEFT folder.")],
    base: Base = None,
    out: Annotated[Path | None, typer.Option(help="The file to write (default: FOLDER/NAME.gguf).")] = None,
    config: Config = None,
    offline: Offline = False,
) -> None:
    """Convert a PEFT folder to the GGUF adapter that llama.cpp loads (needs no torch)."""
    from composer.adding import base_for
    from composer.registry.convert import convert_peft

    found, declared = base_for(make_pipeline(config, None, offline).registry, folder, base)
    place = out or folder / f"{folder.resolve().name}.gguf"
    convert_peft(folder, found, place, declared=declared, where=str(folder))
    typer.echo(str(place))


def select(
    data: Annotated[
        Path,
        typer.Option("--data", help="JSONL: id, question, answer[, rationale, choices, kind]; five to fifty rows."),
    ],
    keep: Annotated[int, typer.Option(min=1, help="How many experts to choose.")] = 3,
    diversity: Annotated[float, typer.Option(min=0, help="Weight on how much they differ.")] = 0.5,
    pool: Annotated[
        Path | None, typer.Option("--pool", help="Choose rows of this file instead, that resemble those of --data.")
    ] = None,
    take: Annotated[int | None, typer.Option(min=1, help="With --pool: how many rows.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --pool: the file to write them to.")] = None,
    config: Config = None,
    as_json: AsJson = False,
    memory: Memory = None,
    offline: Offline = False,
) -> None:
    """Choose a few experts of many by labelled examples: those that solve them, follow their rationales, and differ from
    each other. Nothing is written. With --pool: choose rows to train on, that resemble the examples and not each other."""
    from composer.selecting import data_of, lines
    from composer.selecting import select as select_experts

    if pool is not None or take is not None or out is not None:
        _take(make_pipeline(config, memory, offline), data, pool, take, out, as_json=as_json)
        return

    found = select_experts(make_pipeline(config, memory, offline), data, keep, diversity=diversity)
    for note in found.notes:
        say(note)
    if as_json:
        print_json(data_of(found.experts))
        return
    for line in lines(found.experts):
        typer.echo(line)


def _take(
    pipeline: Pipeline, data: Path, pool: Path | None, count: int | None, out: Path | None, *, as_json: bool
) -> None:
    """Rows of a file that resemble the examples. Raises InputError."""
    from dataclasses import asdict

    from composer.errors import InputError
    from composer.resembling import take

    if pool is None or count is None or out is None:
        raise InputError("--pool, --take and --out go together", where="coe experts select")
    chosen = take(pipeline, data, pool, count, out)
    if as_json:
        print_json(asdict(chosen))
        return
    for line in chosen.lines():
        say(line)
    typer.echo(str(out))


def lock(config: Config = None, offline: Offline = False) -> None:
    """Write experts.lock: the sha256 of each expert's files, and what runs them. From then on nothing else is opened."""
    from composer.locking import lock_experts

    path, count = lock_experts(make_pipeline(config, None, offline).registry)
    typer.echo(f"{count} experts written into {path}")


def verify(config: Config = None, as_json: AsJson = False, offline: Offline = False) -> None:
    """Compare every expert with experts.lock, its files with their sha256; exit code 8 if anything differs."""
    from composer.locking import older_entries, verify_experts

    registry = make_pipeline(config, None, offline).registry
    found = verify_experts(registry)
    if older := older_entries(registry):
        say(
            f"{', '.join(older)}: locked by an earlier version, which did not write down what code may run, nor the"
            " version of every engine; `coe experts lock` writes that too"
        )
    if as_json:
        print_json(found)
    for name, told in found.items() if not as_json else ():
        typer.echo(f"{'BAD' if told else 'ok':5} {name}" + "".join(f"\n      {line}" for line in told))
    if any(found.values()):
        raise typer.Exit(CORRUPT)


def _weights(text: str, form: str) -> dict[str, float]:
    """`a=0.5,b=0.5` as a mapping. Raises InputError."""
    from composer.errors import InputError

    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().rpartition("=")
        try:
            found[name] = float(weight)
        except ValueError:
            name = ""
        if not name:
            raise InputError(
                f"{part.strip()!r} is no expert with its weight",
                where=f"--{form}",
                remedy=f"write --{form} law=0.5,tax=0.5",
            )
    return found
