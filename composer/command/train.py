"""`coe experts train`: a LoRA adapter of a model, made of labelled rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from composer.command.kit import AsJson, Config, Ended, Offline, complain, interrupted, make_pipeline, print_json, say
from composer.exits import INCOMPLETE

if TYPE_CHECKING:
    from composer.jsonl import RowError
    from composer.training.run import Trained

_TOLD = 20  # bad lines that are spelt out


def train(
    base: Annotated[
        str,
        typer.Option(
            help="What to train on: a model of the registry, a GGUF file, or a folder of Hugging Face's form."
        ),
    ],
    data: Annotated[
        Path, typer.Option(help="JSONL: question, answer[, target, kind, choices, id]; target is what to write.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; an adapter that was there is replaced.")],
    name: Annotated[str | None, typer.Option(help="What to call it (else after the folder).")] = None,
    python: Annotated[
        str | None, typer.Option(help="An interpreter with torch, transformers and peft (else COE_VLLM, .venv-vllm).")
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Most steps; it ends earlier where the held-out loss no longer falls.")
    ] = 600,
    size: Annotated[int, typer.Option("--size", help="Rows per step (the batch).")] = 8,
    rank: Annotated[int, typer.Option(help="Of the adapter's matrices.")] = 8,
    alpha: Annotated[
        float | None, typer.Option(help="The adapter's scale is alpha / rank (else twice the rank).")
    ] = None,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Of the parting, the order and the first numbers.")] = 0,
    holdout: Annotated[
        int | None, typer.Option(help="Rows held back to stop in time and to score (else a fifth, at most 60).")
    ] = None,
    patience: Annotated[int, typer.Option(help="Looks without a lower held-out loss before it ends.")] = 5,
    every: Annotated[int | None, typer.Option(help="Steps between two looks (else a twentieth of --steps).")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of the base's numbers: bfloat16 or float32 (else the faster).")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Of torch on a CPU (else OMP_NUM_THREADS, or half the CPUs).")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="A PEFT folder to go on from.")] = None,
    config: Config = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Train a LoRA adapter on labelled rows, and say how many held-out questions are right before and after. Ctrl-C keeps
    the best so far. Needs an interpreter with torch; uses a GPU where torch sees one."""
    from composer.adding import name_of
    from composer.errors import InputError
    from composer.registry.vllm_home import find_python
    from composer.training.base import find_trainee
    from composer.training.lessons import read_lessons, strays
    from composer.training.process import StoppedError
    from composer.training.run import Recipe, check_out
    from composer.training.run import train as run
    from composer.training.show import watching

    for option, value, least in (("--holdout", holdout, 1), ("--every", every, 1), ("--threads", threads, 1)):
        if value is not None and value < least:
            raise InputError(f"{value} is too small, expected {least} or more", where=option)
    if dtype not in (None, "bfloat16", "float32"):
        raise InputError(f"{dtype!r} is unknown", where="--dtype", remedy="choose bfloat16 or float32, or leave it out")
    recipe = Recipe(
        steps=steps, size=size, rank=rank, alpha=2.0 * rank if alpha is None else alpha, rate=rate, seed=seed,
        patience=patience, every=every or 0, dtype=dtype, start=start,
    )  # fmt: skip
    recipe.check()
    check_out(out)
    lessons = read_lessons(data, holdout=holdout, seed=seed)
    _complain_of(lessons.errors)
    if wrong := strays((*lessons.train, *lessons.held)):
        say(f"the target of {len(wrong)} rows is no right answer to them, the first on line {wrong[0]}: see `target`")
    trainee = find_trainee(make_pipeline(config, None, offline).registry, base)
    try:
        with watching(say) as hear:
            done = run(
                trainee, lessons, out, recipe,
                name=name_of(Path(name)) if name else name_of(out.resolve()),
                python=find_python(python), threads=threads or _threads(), hear=hear,
            )  # fmt: skip
    except (KeyboardInterrupt, StoppedError):
        complain("interrupted before there was an adapter better than the base: nothing is written")
        raise Ended(interrupted()) from None
    if as_json:
        print_json(_data_of(done, lessons.errors))
    else:
        for text in _lines(done):
            typer.echo(text)
    if done.why == "stopped":
        complain(f"interrupted; the best so far, step {done.best} of {done.steps}, is in {done.folder}")
        raise Ended(interrupted())
    if lessons.errors:
        raise typer.Exit(INCOMPLETE)


def _complain_of(errors: tuple[RowError, ...]) -> None:
    for error in errors[:_TOLD]:
        say(f"left out: line {error.line}: {error.reason}: {error.raw}")
    if len(errors) > _TOLD:
        say(f"left out: {len(errors) - _TOLD} more")


def _lines(done: Trained) -> list[str]:
    """What there is to say at the end: scores, losses, files, the next step."""
    after = f", after {done.after}" if done.after else ""
    ends = {"finished": "all steps", "patience": "the held-out loss fell no longer", "stopped": "stopped"}
    found = [
        f"held-out questions right: before {done.before}{after}",
        f"held-out loss: before {done.loss_before:.3f}, after {done.loss_after:.3f} "
        f"(step {done.best} of {done.steps}; {ends[done.why]}; {done.seconds:.0f} s)",
        *done.notes,
    ]
    if done.after is not None and done.after.right <= done.before.right:
        found.append("it is no better than its base: more rows, more --steps, or another --rate may help")
    return [
        *found,
        f"next: coe experts add {done.folder}" + (f" --name {done.name}" if done.name != done.folder.name else ""),
    ]


def _data_of(done: Trained, errors: tuple[RowError, ...]) -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "name": done.name,
        "gguf": str(done.gguf) if done.gguf else None,
        "ended": done.why,
        "steps": done.steps,
        "best_step": done.best,
        "held_out": {
            "of": done.before.of,
            "before": done.before.right,
            "after": done.after.right if done.after else None,
            "loss_before": done.loss_before,
            "loss_after": done.loss_after,
        },
        "seconds": round(done.seconds, 1),
        "left_out": [{"line": error.line, "reason": error.reason} for error in errors],
        "notes": list(done.notes),
    }


def _threads() -> int:
    """Half the CPUs, since two threads of a core are slower than one; or what the environment says."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) else max(1, (os.cpu_count() or 2) // 2)
