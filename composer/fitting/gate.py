"""`coe fit gate`: learn from questions answered both ways when reading pays, and install a gate where that is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from composer.errors import InputError
from composer.pipeline import Pipeline
from composer.places import gates_folder
from composer.profile import Profile
from composer.retrieval.choosing import BothWays, Costs, Point, best, curve, earned, fit_all, ratings, values_of
from composer.retrieval.gate import DRAFTED, Gate, Signals, Worth, opens
from composer.retrieval.records import GateRecord, write_records
from composer.retrieval.signals import SAMPLES
from composer.stages.asking import asking
from composer.stages.looking import look
from composer.stages.prompting import prompt_of
from composer.stages.retrieve import WORTH, read
from composer.state import Query
from composer.types import Draft, Evidence, Request
from routers.stats import calibration_split, paired_difference
from routers.types import Questions

_LEAST = 30  # held-out questions, under which a paired test says nothing
_TIMED = 16  # questions that costs are measured on, one call at a time
_PLAIN = ("never", "always")


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a gate is expected to do on questions whose answers nobody knows, at one value of a right answer: the share that
    reads, the share of always' cost saved, and P(right) with it, never and always reading."""

    value: float
    read: float
    saved: float
    right: float
    never: float
    always: float


@dataclass(frozen=True, slots=True)
class Weighed:
    """What was found for one arm that reads. `rated`: right answers per question that each gate earns where it was chosen;
    `difference`: what the tested one earns more than the better of never and always, in seconds per question, on `held`
    questions that had no part in the choice (mean, low, high); `curves` of these three over the value of a right answer."""

    arm: str
    plain: str
    questions: int
    costs: Costs
    value: float
    rated: Mapping[str, float]
    tested: str
    constant: str
    difference: tuple[float, float, float]
    held: int
    installed: str
    curves: Mapping[str, tuple[Point, ...]]
    notes: tuple[str, ...] = ()
    traffic: tuple[Traffic, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.arm}: {self.questions} questions both ways; reading costs {self.costs.reading:.2f} s a question"
        for name, earns in sorted(self.rated.items(), key=lambda pair: -pair[1]):
            yield f"  {name:14} {earns:+.4f} right answers a question, less what it costs"
        mean, low, high = self.difference
        yield (
            f"  {self.tested} - {self.constant}: {mean:+.3f} s a question [{low:+.3f}, {high:+.3f}] on {self.held} "
            f"held-out questions, where a right answer is worth {self.value:g} s"
        )
        why = "" if self.installed == self.tested else f"; that {self.tested} is better is not shown"
        yield f"  installed: {self.installed}{why}"
        yield f"  {'value, s':>10}{'read':>7}{'saved':>7}{'right':>8}{'never':>8}{'always':>8}   (held-out questions)"
        for own, never, always in zip(*(self.curves[name] for name in ("gate", *_PLAIN)), strict=True):
            yield (
                f"  {own.value:10.2f}{own.read:7.0%}{own.saved:7.0%}{own.right:8.1%}{never.right:8.1%}{always.right:8.1%}"
            )
        for note in self.notes:
            yield f"  note: {note}"
        if self.traffic:
            yield f"  {'value, s':>10}{'read':>7}{'saved':>7}{'right':>8}{'never':>8}{'always':>8}   (traffic, as expected)"
        for one in self.traffic:
            yield (
                f"  {one.value:10.2f}{one.read:7.0%}{one.saved:7.0%}{one.right:8.1%}{one.never:8.1%}{one.always:8.1%}"
            )


@dataclass(slots=True)
class _Seen:
    """What one arm and its plain one showed, on the way to a gate."""

    arm: str
    plain: str
    questions: Questions
    both: BothWays
    costs: Costs
    notes: list[str] = field(default_factory=list[str])


def pairs_of(pipeline: Pipeline, profile: Profile) -> list[tuple[str, str]]:
    """The arms that read and their experts without passages, of which both have a record. Raises InputError where there
    is none."""
    reading = [arm for arm in pipeline.settings.reading if {arm.name, arm.expert} <= profile.known]
    if not reading:
        where = str(pipeline.settings.path)
        if not pipeline.settings.reading:
            raise InputError(
                "no expert of this registry is given anything to read", where=where, remedy="add `evidence:` to it"
            )
        raise InputError(
            "no arm that reads has a record beside that of its expert",
            where=where,
            remedy="ask both ways: coe fit gate labelled.jsonl, or coe profile labelled.jsonl",
        )
    return [(arm.name, arm.expert) for arm in reading]


def default_value(pipeline: Pipeline) -> float:
    """What a right answer is worth in seconds: as the stage `retrieve` says, else `WORTH`."""
    options = next((step.options for step in pipeline.settings.pipeline if step.use == "retrieve"), {})
    return float(options.get("value", WORTH))


def fit_gates(
    pipeline: Pipeline,
    profile: Profile,
    *,
    value: float,
    drafts: bool = True,
    traffic: Sequence[Query] = (),
    say: Callable[[str], None] = lambda _text: None,
) -> list[Weighed]:
    """Fit the gates of every arm that reads on the questions answered both ways, less the calibration part; choose one on
    a part of what is left, and test it on calibration.

    It is installed if the paired interval of what it earns more than the better of never and always lies above 0 where a
    right answer is worth `value` seconds; else that one is. What is installed is fitted on everything. With `drafts` gates
    that look at short drafts are among them: these are drawn here, and cost in service. Closes the pipeline. Raises
    InputError for too few questions, PassageError where nothing can be looked up.
    """
    found, records = [], dict[str, GateRecord]()
    prints = pipeline.registry.prints()
    with pipeline:
        for arm, plain in pairs_of(pipeline, profile):
            say(f"{arm}: looking at the questions")
            seen = pipeline.complete(_look(pipeline, profile, arm, plain, drafts=drafts))
            weighed, gates = _weigh(seen, value)
            if traffic:
                needs = gates[weighed.installed].needs
                signals = pipeline.complete(look(pipeline.kit, arm, plain, traffic, needs, asking(pipeline.pool)))
                points = _foreseen(gates, weighed.installed, signals, seen.costs)
                weighed = replace(weighed, traffic=tuple(points))
            gain = float((seen.both.reading - seen.both.without).mean())
            own = (prints[plain], prints[arm])
            records[arm] = GateRecord(arm, plain, weighed.installed, gates, seen.costs, gain, value, own)
            found.append(weighed)
    write_records(gates_folder(pipeline.registry), records, encoder=pipeline.registry.encoder_sha)
    return found


def _weigh(seen: _Seen, value: float) -> tuple[Weighed, dict[str, Gate]]:
    both, costs, ids, vectors = seen.both, seen.costs, seen.questions.ids, seen.questions.vectors
    held = calibration_split(ids, vectors)
    learn, check = np.flatnonzero(~held), np.flatnonzero(held)
    if len(check) < _LEAST:
        raise InputError(
            f"{len(both)} questions were asked both ways, too few to test a gate on: {len(check)} of {_LEAST} are held out",
            where=seen.arm,
            remedy="give more labelled questions: coe fit gate labelled.jsonl",
        )
    again = calibration_split([ids[row] for row in learn], vectors[learn], seed=1)
    inner, outer = both.rows(learn[~again]), both.rows(learn[again])
    rated = ratings(fit_all(inner), outer, costs, [value])
    tested, constant = best(rated), best({name: rated[name] for name in _PLAIN})
    gates, test = fit_all(both.rows(learn)), both.rows(check)
    difference = paired_difference(*(earned(gates[name], test, costs, value) for name in (tested, constant)))
    installed = tested if difference[1] > 0 else constant
    values = values_of(costs)
    curves = {name: tuple(curve(gates[name], test, costs, values)) for name in _PLAIN}
    curves["gate"] = tuple(curve(gates[installed], test, costs, values))
    told = (seen.arm, seen.plain, len(both), costs, value, rated, tested, constant, difference, len(check), installed)
    return Weighed(*told, curves, tuple(seen.notes)), fit_all(both)


def _foreseen(gates: Mapping[str, Gate], chosen: str, signals: Signals, costs: Costs) -> Iterator[Traffic]:
    judge, gate = gates["worth"], gates[chosen]
    assert isinstance(judge, Worth)
    without, reading = judge.probable(signals)
    for value in values_of(costs):
        read = opens(gate, signals, costs.reading, value)
        saved = 1 - float(read.mean()) - costs.looking(gate) / costs.reading
        right = float(np.where(read, reading, without).mean())
        yield Traffic(value, float(read.mean()), saved, right, float(without.mean()), float(reading.mean()))


async def _look(pipeline: Pipeline, profile: Profile, arm: str, plain: str, *, drafts: bool) -> _Seen:
    """What both arms are known to be worth on the questions that both were asked, with signals and costs."""
    questions, _ = profile.columns()
    arms = [one for name in (plain, arm) for one in pipeline.registry.arms() if one.name == name]
    worth = profile.outcomes(questions, arms).matrix(len(questions))
    rows = np.flatnonzero(np.isfinite(worth).all(axis=1))
    if not len(rows):
        raise InputError(f"no question was put to both {plain} and {arm}", remedy="coe fit gate labelled.jsonl")
    own, truth = questions.take(rows), np.asarray(worth[rows], dtype=np.float64)
    queries = [Query(name, text) for name, text in zip(own.ids, own.text, strict=True)]
    needs = frozenset(DRAFTED if drafts else ())
    signals = await look(pipeline.kit, arm, plain, queries, needs, asking(pipeline.pool), own.vectors)
    unknown = [name for name in DRAFTED if name in needs and getattr(signals, name) is None]
    notes = [
        f"no draft tells its {name}: the engine gives no log-probabilities, or every call failed" for name in unknown
    ]
    costs = await measure_costs(pipeline, arm, plain, queries, signals)
    return _Seen(arm, plain, own, BothWays(signals, truth[:, 0], truth[:, 1]), costs, notes)


async def measure_costs(pipeline: Pipeline, arm: str, plain: str, queries: Sequence[Query], signals: Signals) -> Costs:
    """What reading and short drafts cost here, in seconds per question, measured on a few of these questions, one call
    after the other. Raises InputError where no call succeeds, PassageError where nothing can be looked up."""
    order = np.random.default_rng(0).permutation(len(queries))[: _TIMED + 1]
    some = [queries[row] for row in order]
    given, looked = await _read(pipeline, arm, some)
    short = [
        [await _one(pipeline, name, query, evidence, max_tokens=1) for name, evidence in ((plain, None), (arm, found))]
        for query, found in zip(some, given, strict=True)
    ]
    times = [(without.usage.seconds, with_.usage.seconds) for without, with_ in short[1:]]  # the first opens the host
    if not times:
        raise InputError("there is no question to measure the cost of reading on", remedy="coe fit gate labelled.jsonl")
    reading = max(float(np.mean([more - less for less, more in times])), 0.0) + looked
    if not any(getattr(signals, name) is not None for name in DRAFTED):
        return Costs(reading)
    whole = float(np.mean([(await _one(pipeline, plain, query, None)).usage.seconds for query in some[1:]]))
    return Costs(reading, {"entropy": SAMPLES * whole, "margin": whole, "confidence": whole})


async def _read(pipeline: Pipeline, arm: str, queries: Sequence[Query]) -> tuple[list[Evidence], float]:
    """What the arm is given to read, and the seconds per question until it was there. What experts write beside each other
    counts by its share of the time, also where it came from the store."""
    slots = {expert: pipeline.settings.models[one.model].slots for expert, one in pipeline.settings.experts.items()}
    writing, ask = [0.0], asking(pipeline.pool)

    async def timed(requests: Sequence[Request]) -> Mapping[str, Draft]:
        drafts = await ask(requests)
        expert = {request.id: request.streams[0].expert for request in requests}
        writing[0] += sum(draft.usage.seconds / slots[expert[name]] for name, draft in drafts.items())
        return drafts

    began = time.perf_counter()
    found = await read(
        pipeline.registry, timed, pipeline.encoder, pipeline.passages, [(arm, query) for query in queries]
    )
    spent = writing[0] or time.perf_counter() - began
    return found, spent / len(queries)


async def _one(
    pipeline: Pipeline, arm: str, query: Query, evidence: Evidence | None, max_tokens: int | None = None
) -> Draft:
    registry = pipeline.registry
    stream = registry.stream(arm, prompt_of(registry, query, arm, evidence))
    own = query.wishes.of(registry.sampling(arm))
    # another seed, which changes no greedy text: the store has this draft as it was written beside others, more slowly
    sampling = replace(own, seed=own.seed + 1) if max_tokens is None else replace(own, max_tokens=max_tokens)
    request = Request(f"{query.id}:{arm}:cost:0", (stream,), sampling, role="probe", arm=arm, parent=query.id)
    draft = (await asking(pipeline.pool)([request]))[request.id]
    if draft.error is not None:
        raise InputError(f"the cost of reading cannot be measured: {draft.error.message}", remedy="coe experts check")
    return draft
