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
from composer.traced import calls_of, trace_of
from composer.types import WHOLE, Draft, Failure, Message, Request, Usage

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
    """The calls of one trace: whole ones from the store, failed and truncated ones from the trace, which alone has them."""

    def __init__(self, store: DraftStore, trace: Mapping[str, Any]) -> None:
        self._store = store
        self._broken = {
            call["key"]: Draft(
                key=call["key"],
                text=call["draft"],
                stop=call["stop"],
                usage=Usage(call["tokens_in"], call["tokens_out"], seconds=call["seconds"]),
                served_by=call["served_by"],
                error=Failure(**call["error"]) if call["error"] else None,
            )
            for call in calls_of(trace)
            # Beside the drafts only what is not whole says how it ended, and earlier versions said it of none.
            if call.get("key") and "stop" in call and (call["error"] or call["stop"] not in WHOLE)
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


class _Nobody(Budget):
    """Allows no call; `wanted` are those that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: list[Request] = []
        self.stop("max-calls", grace=_MORE)

    def admits(self, request: Request) -> bool:
        """No."""
        self.wanted.append(request)
        return super().admits(request)

    @property
    def names(self) -> str:
        """Whose drafts they would be, and what for where they are no answers."""
        told = (one.arm if one.role == "draft" else f"{one.arm} ({one.role})" for one in self.wanted)
        return ", ".join(dict.fromkeys(told))


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
        settings = _combining(settings, trace, by)
    if "choices" not in trace:
        raise InputError(
            "this question was answered by a version that did not keep its options", where=f"run {run.run_id}"
        )
    query = _query_of(trace)
    nobody = _Nobody()
    budget = Budget() if fresh else nobody
    with Pipeline(settings, store=store, offline=not fresh) as pipeline:
        asked = pipeline.complete(pipeline.store.questions(run.run_id))
        name = trace.get("asked_as", query.id)
        if name in asked and asked[name][1] != query.sha:
            raise StoreError(
                f"the question {query.id!r}, as its trace tells it, is not the one that was asked",
                where=f"run {run.run_id}",
                remedy="an earlier version told it otherwise where a plan was followed: ask it again",
            )
        pipeline.drafts = _Anew() if fresh else _Recalled(pipeline.store, trace)
        work = pipeline.astate([query], run=trace.get("run", run.run_id), by=trace.get("model", AUTO), budget=budget)
        state = pipeline.complete(work)
    if state.withheld[0]:
        changed = "" if by is None else f"{by} settles a step otherwise, after which others are asked; or "
        raise StoreError(
            f"the store has no draft of {nobody.names} for the question {query.id!r} as it would be asked now",
            where=str(store),
            remedy=f"{changed}it was removed by `coe cache gc`, or the files, the profile, the engine or the version of coe "
            "have changed since; ask again with `coe run`",
        )
    served = {key: trace[key] for key in ("model", "run", "asked_as") if key in trace}
    again = json.loads(json.dumps(trace_of(state, 0) | served))
    earlier = any("key" not in call for call in trace.get("beside", ()))
    changes = _changes(_compared(trace, by, fresh, earlier), _compared(again, by, fresh, earlier))
    drawn = sum(not call["cached"] for call in calls_of(again)) if fresh else 0
    return Replayed(run.run_id, trace, again, tuple(changes), by, drawn)


def _combining(settings: Settings, trace: Mapping[str, Any], by: str) -> Settings:
    """The registry with the aggregator `by` at the end of the pipeline that answered. Raises InputError where an expert did."""
    name = trace.get("model", AUTO)
    if name != AUTO and name not in settings.pipelines:
        raise InputError(
            f"the question {trace['id']!r} was asked of {name!r} alone, by name: nothing is combined there",
            where="--by",
            remedy="leave it out, or name a question that a pipeline answered",
        )
    *steps, last = settings.pipeline if name == AUTO else settings.pipelines[name]
    swapped = (*steps, replace(last, options={**last.options, "by": by}))
    if name == AUTO:
        return replace(settings, pipeline=swapped)
    return replace(settings, pipelines={**settings.pipelines, name: swapped})


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


def _compared(trace: Mapping[str, Any], by: str | None, fresh: bool, earlier: bool) -> Any:
    """What has to be equal: all but whether a call came from the store, and how long it took where it was drawn anew; of
    calls beside the drafts what an `earlier` version told of them; with another aggregator, the answer."""
    if by is not None:
        return {key: trace[key] for key in ("answer", "status", "chosen", "agreement", "sure")}
    left_out = {"cached", "seconds", "served_by"} if fresh else {"cached"}
    untold = {"key", "draft", "stop", "error", "served_by"} if earlier else set[str]()
    calls = {
        column: [{k: v for k, v in call.items() if k not in unlike} for call in trace[column]]
        for column, unlike in (("drafts", left_out), ("beside", left_out | untold))
        if column in trace
    }
    return {**trace, **calls}


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
