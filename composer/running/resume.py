"""What has to be the same for a run to go on where it was left, and what the user is told if it is not."""

from __future__ import annotations

import difflib
import hashlib
import shlex
from functools import cache
from pathlib import Path

from composer import __version__
from composer.errors import ComposerError
from composer.exits import USAGE
from composer.store import SETTLED, DraftStore, Origin, RunRecord

_MOST_LINES = 200  # of a diff


class ChangedError(ComposerError):
    """The same work was begun with another registry, other things fitted for it, or another version of this program, and
    is not finished."""

    code = "changed"
    exit_code = USAGE


@cache
def code_version() -> str:
    """The version of this program, and a digest of its source: a checkout changes without a new version."""
    top = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for package in ("composer", "routers"):
        for path in sorted((top / package).rglob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{__version__}+{digest.hexdigest()[:12]}"


async def refuse_change(store: DraftStore, origin: Origin, run_id: str, config_sha: str, *, accept: bool) -> None:
    """Raise ChangedError where `origin`'s questions are on their way into its file with another registry or program than
    now, or with something else fitted for it, with the difference; with `accept` such a run is given up
    instead, and the store says so."""
    for run in await store.same_work(origin):
        if run.state in SETTLED or run.run_id == run_id:
            continue
        spent = (await store.costs(run.run_id)).run
        if not run.done and not spent.calls + spent.cached:
            continue  # it ended before the first draft, most often because of what has been changed now
        if accept:
            await store.supersede(run.run_id)
            continue
        old = run.origin
        assert old is not None  # `same_work` looks for it
        change = difference(old.registry_text, origin.registry_text, old.registry_path, origin.registry_path)
        what, back = "the registry has changed since this run was begun", f"bring back the old {old.registry_path}"
        if run.config_sha != config_sha and old.registry_text == origin.registry_text:
            what, back = (
                "what experts are given to read has changed since this run was begun",
                "bring back the old index",
            )
        if run.code_version != code_version():
            change = "\n".join(filter(None, (f"- coe {run.code_version}\n+ coe {code_version()}", change)))
            if run.config_sha == config_sha:
                what, back = "this program has changed since this run was begun", "install the old version"
        elif run.config_sha == config_sha:  # it has another name all the same (`installed_sha`)
            what, back = (
                "what `coe fit` has installed for this registry has changed since this run was begun",
                "bring back what was installed then",
            )
        shown = f"\n{change}" if change else ""
        raise ChangedError(
            f"{what}: {run.done} of {run.questions} questions are finished, and the others would be answered "
            f"in another way{shown}",
            where=f"run {run.run_id} ({origin.out})",
            remedy=f"{back} and run the same command again; or begin anew with --accept-config-change "
            "(drafts that are still valid are taken from the store)",
        )


def difference(old: str, new: str, old_name: str = "before", new_name: str = "now") -> str:
    """A unified diff of two texts, at most 200 lines of it."""
    lines = list(
        difflib.unified_diff(old.splitlines(), new.splitlines(), f"{old_name} (then)", f"{new_name} (now)", lineterm="")
    )
    more = [f"… and {len(lines) - _MOST_LINES} lines more"] if len(lines) > _MOST_LINES else []
    return "\n".join(lines[:_MOST_LINES] + more)


def resume_command(source: str | Path, out: str | Path, config: str | Path | None, *more: str) -> str:
    """The command that goes on with a run."""
    words = ["coe", "run", str(source), "--out", str(out), *(["--config", str(config)] if config else []), *more]
    return shlex.join(words)


def resume_of(run: RunRecord) -> str | None:
    """The command that goes on with a run of the store, from any folder; None where there is nothing to go on with."""
    if run.origin is None or run.origin.kind != "run" or run.state in ("finished", "superseded", "running"):
        return None
    return resume_command(run.origin.source, run.origin.out, run.origin.registry_path, *run.origin.options)
