"""One question of a run again: the same drafts out of the store, or drawn anew, and whether answer and trace are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from composer.asker import Wishes
from composer.budget import Budget
from composer.config import AUTO, find_registry, load_settings
from composer.document import text_of
from composer.errors import ConfigError, InputError, StoreError
from composer.pipeline import Pipeline
from composer.registry.indexes import content_sha
from composer.running.resume import ChangedError, difference
from composer.settings.specs import Settings
from composer.state import Query
from composer.store import DraftStore, RunRecord
from composer.traced import trace_of
from composer.types import Draft, Failure, Message, Usage

_MORE = 24 * 3600.0  # seconds: nothing is in flight that could be cut


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came out. `trace` is what the store holds, `again` what was made now; `changes` are the places in which they
    differ, as (path, then, now); with `by` the answer is another aggregator's and only the answer is compared; `calls` is
    how many drafts were drawn anew, and then what they cost is not compared."""

    run_id: str
    trace: Mapping[str, Any]
    again: Mapping[str, Any]
    changes: tuple[tuple[str, Any, Any], ...]
    by: str | None
    calls: int = 0

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not self.changes


class _Recalled:
    """The drafts of one trace: whole ones from the store, failed and truncated ones from the trace, which alone has them."""

    def __init__(self, store: DraftStore, trace: Mapping[str, Any]) -> None:
        self._store = store
        self._broken = {
            draft["key"]: Draft(
                key=draft["key"],
                text=draft["draft"],
                stop=draft["stop"],
                usage=Usage(draft["tokens_in"], draft["tokens_out"], seconds=draft["seconds"]),
                served_by=draft["served_by"],
                error=Failure(**draft["error"]) if draft["error"] else None,
            )
            for draft in trace["drafts"]
            if draft["key"] and (draft["error"] or draft["stop"] != "stop")
        }

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        return await self._store.get(keys) | {key: self._broken[key] for key in keys if key in self._broken}

    async def put(self, draft: Draft, request: object) -> None:
        raise AssertionError("a replay asks nobody")


class _Anew:
    """A store that has nothing and keeps nothing: what was stored stays what it is."""

    async def get(self, keys: Sequence[str]) -> dict[str, Draft]:
        return {}

    async def put(self, draft: Draft, request: object) -> None:
        pass


async def find_question(store: DraftStore, name: str, run: RunRecord | None) -> tuple[str, dict[str, Any]]:
    """(run id, trace) of a finished question: by its trace id, or by its id in `run` (None: in the last run that finished
    it). Raises InputError where there is none."""
    found = await store.finished(name)
    if run is not None:
        found = [(run_id, trace) for run_id, trace in found if run_id == run.run_id]
    if not found:
        where = f" in the run {run.run_id}" if run else ""
        raise InputError(
            f"no finished question{where} has the id or the trace id {name!r}",
            remedy="take a `trace_id` of the answers, or an id and --run RUN",
        )
    return found[-1]


def settings_of(run: RunRecord, config: Path | None) -> Settings:
    """The registry of a run: where it was, or at `config`. Raises ChangedError where it is another one by now."""
    place = config or (Path(run.origin.registry_path) if run.origin else None)
    try:
        settings = load_settings(find_registry(place))
    except ConfigError as why:
        raise ConfigError(
            f"the registry of the run {run.run_id} cannot be read: {why.what}",
            where=why.where,
            remedy="name it by --config",
        ) from why
    if content_sha(settings) != run.config_sha:
        old = run.origin.registry_text if run.origin else None
        change = difference(old, text_of(settings.path), "the run's") if old else "(this run kept no copy of its own)"
        raise ChangedError(
            f"the registry is not the one the run {run.run_id} was made with\n{change}",
            where=str(settings.path),
            remedy="bring the old one back, or name it by --config",
        )
    return settings


def replay(
    store: Path,
    run: RunRecord,
    trace: Mapping[str, Any],
    *,
    config: Path | None = None,
    by: str | None = None,
    fresh: bool = False,
) -> Replayed:
    """Route, read and combine the question of `trace` again, every draft from the store; `by` names another aggregator.

    Nobody is asked, unless `fresh`: then every draft is drawn anew with the same prompt, sampling and seed, the store is
    left as it is, and `changes` are what came out otherwise. Raises ChangedError for another registry, StoreError where a draft is not there any more or would be
    another one now, InputError for a run of a version that kept too little, or for `by` and `fresh` together.
    """
    if fresh and by is not None:
        raise InputError(
            "new drafts under another aggregator would differ for two reasons", where="--fresh", remedy="leave out --by"
        )
    settings = settings_of(run, config)
    if by is not None:
        *steps, last = settings.pipeline
        settings = replace(settings, pipeline=(*steps, replace(last, options={**last.options, "by": by})))
    if "choices" not in trace:
        raise InputError(
            "this question was answered by a version that did not keep its options", where=f"run {run.run_id}"
        )
    query = _query_of(trace)
    budget = Budget()
    if not fresh:
        budget.stop("max-calls", grace=_MORE)
    with Pipeline(settings, store=store, offline=not fresh) as pipeline:
        asked = pipeline.complete(pipeline.store.questions(run.run_id))
        name = trace.get("asked_as", query.id)
        if name in asked and asked[name][1] != query.sha:
            raise StoreError(f"the question {query.id!r} is not the one that was asked", where=f"run {run.run_id}")
        pipeline.drafts = _Anew() if fresh else _Recalled(pipeline.store, trace)
        work = pipeline.astate([query], run=trace.get("run", run.run_id), by=trace.get("model", AUTO), budget=budget)
        state = pipeline.complete(work)
    if state.withheld[0]:
        missing = [reply.arm for reply in state.replies[0] if reply.draft.stop == "cancelled"]
        raise StoreError(
            f"the store has no draft of {', '.join(missing)} for the question {query.id!r} as it would be asked now",
            where=str(store),
            remedy="it was removed by `coe cache gc`, or the files, the profile or the engine have changed since; "
            "ask again with `coe run`",
        )
    served = {key: trace[key] for key in ("model", "run", "asked_as") if key in trace}
    again = json.loads(json.dumps(trace_of(state, 0) | served))
    changes = _changes(_compared(trace, by, fresh), _compared(again, by, fresh))
    return Replayed(run.run_id, trace, again, tuple(changes), by, len(again["drafts"]) if fresh else 0)


def _query_of(trace: Mapping[str, Any]) -> Query:
    """The question as it was asked, what was said before and what its caller wished included."""
    wishes = dict(trace.get("wishes", {}))
    if "stop" in wishes:
        wishes["stop"] = tuple(wishes["stop"])
    return Query(
        trace["id"],
        trace["question"],
        tuple(trace["choices"]),
        trace["kind"],
        tuple(trace["tests"]),
        tuple(Message(**turn) for turn in trace.get("turns", ())),
        Wishes(**wishes),
    )


def _compared(trace: Mapping[str, Any], by: str | None, fresh: bool) -> Any:
    """What has to be equal: all but whether a draft came from the store, and how long it took where it was drawn anew;
    with another aggregator, the answer."""
    if by is not None:
        return {key: trace[key] for key in ("answer", "status", "chosen", "agreement", "sure")}
    left_out = {"cached", "seconds", "served_by"} if fresh else {"cached"}
    return {**trace, "drafts": [{k: v for k, v in draft.items() if k not in left_out} for draft in trace["drafts"]]}


def _changes(then: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The leaves in which two JSON values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*then, *now]))
        found = [_changes(then.get(key), now.get(key), f"{path}.{key}" if path else key) for key in keys]
        return [change for changes in found for change in changes]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        found = [_changes(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(then, now, strict=True))]
        return [change for changes in found for change in changes]
    return [] if then == now else [(path, then, now)]
