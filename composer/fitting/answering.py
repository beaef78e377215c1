"""`coe fit answers` from its source of answers to the registry file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from composer.errors import InputError, suggest
from composer.jsonl import read_questions
from composer.learning.answers import FittedAnswers, fit_answers, install_answers, record_of
from composer.learning.graded import audit, from_runs
from composer.learning.trust import alarm_lines, install_trust, told
from composer.learning.tune import check_budget
from composer.pipeline import Pipeline
from composer.profile import find_profile
from composer.recorded import Recorded, read_folder, read_pools, vectors_of
from composer.rewrite import is_packaged, write_plan
from routers.errors import RouterError
from routers.types import Array


def fit_and_install(
    pipeline: Pipeline,
    *,
    data: Path | None,
    pool: str | None,
    runs: Path | None,
    calls: str,
    leave_one_out: bool,
    run_code: bool,
    say: Callable[[str], None],
) -> tuple[FittedAnswers, str]:
    """Fit on the profile, on recorded answers (`data`) or on the answers of runs (`runs`); install what is better and
    belongs to this registry; `run_code` allows that programs of `runs` are run against their tests. Returns what was found, and what was done with it, for people.

    Raises InputError for two sources at once, a pool or a file that is not there, and as `fit_answers` does.
    """
    check_budget(calls)
    if data is not None and runs is not None:
        raise InputError("--data and --runs are two sources of answers", remedy="give one of them")
    record, vectors = _source(pipeline, data, pool, runs, run_code, say)
    registry = pipeline.registry
    fitted = fit_answers(
        record,
        vectors,
        registry.generalist if data is None else None,
        budget=calls,
        leave_one_out=leave_one_out,
        say=say,
    )
    if not fitted.better:
        return fitted, "nothing was changed"
    if data is not None:
        return fitted, "nothing was changed: these are recorded answers, not this registry's experts"
    if runs is not None:
        return fitted, "nothing was changed: measure these questions with `coe profile`, and fit again without --runs"
    if is_packaged(pipeline.settings.path):
        return (
            fitted,
            "nothing was changed: copy the packaged registry to ./experts.yaml, and run the command again there",
        )
    write_plan(pipeline.settings.path, fitted.options, fitted.by)
    folder = install_answers(fitted, registry, record.questions(vectors), record.outcomes)
    installed = Pipeline.from_file(pipeline.settings.path, say=say)
    try:
        for line in told(install_trust(installed)):
            say(line)
    except (InputError, RouterError) as why:
        say(f"how sure answers are is not calibrated: {str(why).partition(chr(10))[0]}")
    return fitted, f"written into {pipeline.settings.path} and {folder}"


def _source(
    pipeline: Pipeline,
    data: Path | None,
    pool: str | None,
    runs: Path | None,
    run_code: bool,
    say: Callable[[str], None],
) -> tuple[Recorded, Array]:
    if data is not None:
        record = _of_pool(read_folder(data), data, pool)
    elif runs is not None:
        labelled = read_questions(runs, labelled=True).rows
        prices = {arm.name: arm.price for arm in pipeline.registry.arms()}
        with pipeline:
            traces = pipeline.complete(pipeline.store.traces())
        record = from_runs(traces, labelled, prices, run_code=run_code, say=say)
        for line in alarm_lines(audit(traces, labelled, run_code=run_code)):
            say(line)
    else:
        profile, notes = find_profile(pipeline.registry)
        for note in notes:
            say(note)
        return record_of(profile, pipeline.registry.arms(), pipeline.registry.generalist)
    encoder = pipeline.registry.encoder_sha
    return record, vectors_of(record.text, lambda texts: pipeline.encoder().encode(texts), encoder=encoder, say=say)


def _of_pool(record: Recorded, folder: Path, pool: str | None) -> Recorded:
    """The profile split of the pool; without a pool, of all models that answered."""
    if pool is not None:
        pools = read_pools(folder)
        if pool not in pools:
            raise InputError(f"no pool is called {pool!r}", where=str(folder), remedy=suggest(pool, sorted(pools)))
        benchmarks, arms = pools[pool]
        record = record.of(list(benchmarks), arms)
    rows = [row for row, split in enumerate(record.split) if split == "profile"]
    if not rows:
        raise InputError("no question is of the split `profile`", where=str(folder), remedy="mark some of them")
    return record.take(rows)
