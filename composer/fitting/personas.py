"""`coe fit gate` for personas: for which intents does an expert do better as a persona, and for which worse?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composer.answers.merge import STYLE, judge_requests, preferred
from composer.asker import Asker
from composer.errors import InputError
from composer.intents import INTENTS
from composer.pipeline import Pipeline
from composer.places import personas_folder
from composer.profile import Profile
from composer.records.personas import ALPHA, PersonaRecord, write_personas
from composer.stages.asking import asking
from composer.types import Request
from routers.stats import holm, paired_difference, paired_test
from routers.types import Arm, Questions

Column = NDArray[np.float64]

STYLED = ("generative",)
"""The intents of which style says more than a label: where somebody judges, these are judged (METHODS G.2)."""
ACCURACY = "accuracy"
_LEAST = 20  # questions of an intent, under which an interval says nothing
_SPLIT = ("profile",)


@dataclass(frozen=True, slots=True)
class WeighedPersona:
    """What was measured of one persona: a record per intent of which there are questions."""

    arm: str
    records: tuple[PersonaRecord, ...]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.arm}: worth more than {self.records[0].plain}, by intent (nearest labelled neighbours)"
        for one in self.records:
            yield f"  {one.intent:11} {'on ' if one.open else 'off'}  {one.why}"
        yield f"  on where p is at most {ALPHA:g}: the chance of any wrong one among all gates of the registry"


@dataclass(frozen=True, slots=True)
class _Measured:
    """A gate before it is decided: what the persona was worth more per question, and how many were left out."""

    arm: str
    plain: str
    intent: str
    measure: str
    values: Column
    left: int
    prints: tuple[str, str]

    @property
    def tested(self) -> bool:
        """Whether there are questions enough to say anything."""
        return len(self.values) >= _LEAST

    def record(self, p: float | None, gates: int) -> PersonaRecord:
        """As it is kept; `p` is corrected for this many gates (None: too few questions)."""
        who, told = (self.arm, self.plain, self.intent), (len(self.values), self.measure, self.prints)
        if p is None:
            gain = float(self.values.mean()) if len(self.values) else 0.0
            return PersonaRecord(*who, gain, None, None, *told, None, gates, self.left)
        difference = paired_difference(self.values, np.zeros(len(self.values)))
        return PersonaRecord(*who, *difference, *told, p, gates, self.left)


def persona_pairs(pipeline: Pipeline, profile: Profile) -> list[tuple[str, str]]:
    """The arms with a persona and their experts without it, of which both have a record. Raises InputError where there is
    none."""
    found = [(arm.name, arm.expert) for arm in pipeline.settings.personas if {arm.name, arm.expert} <= profile.known]
    if not found:
        raise InputError(
            "no persona has a record beside that of its expert",
            where=str(pipeline.settings.path),
            remedy="ask both ways: coe fit gate labelled.jsonl",
        )
    return found


def fit_personas(
    pipeline: Pipeline, profile: Profile, *, judge: str | None = None, say: Callable[[str], None] = lambda _text: None
) -> list[WeighedPersona]:
    """Measure persona minus plain per intent and expert on the profile's questions of the split `profile`, and install it (PRISM,
    persona routing by intent; METHODS G.2). Nothing is learnt but which gates are open, so they are tested on the questions that they
    are measured on, all personas and intents of the registry together: a gate is open only where the persona gains and the p-value of a
    paired test, after Holm's correction for all of them, is at most 0.05. Intents are told by nearest labelled neighbours, as in
    service. What is compared is accuracy by the profile's outcomes; where a `judge` is named, that expert compares the drafts of
    `STYLED` intents in both orders instead (+1, 0 or -1 per question; it has no persona), and questions whose drafts or comparisons
    failed are left out. Closes the pipeline. Raises InputError for a judge that is no expert, and where nothing was asked both ways."""
    known = [arm.name for arm in pipeline.registry.arms()]
    if judge is not None and judge not in known:
        what, remedy = pipeline.settings.unanswering(judge, known)
        raise InputError(what, where="--judge", remedy=remedy)
    pairs = persona_pairs(pipeline, profile)
    questions, _ = profile.columns(_SPLIT)
    intents, prints, found = pipeline.intents, pipeline.registry.prints(), list[_Measured]()
    with pipeline:
        for arm, plain in pairs:
            worth = profile.outcomes(questions, [Arm(plain), Arm(arm)]).matrix(len(questions))
            rows = np.flatnonzero(np.isfinite(worth).all(axis=1))
            own, kinds = questions.take(rows), np.array(intents.of(questions.vectors[rows]), dtype=object)
            say(f"{arm}: {len(rows)} questions both ways")
            gains, told = worth[rows, 1] - worth[rows, 0], (prints[plain], prints[arm])
            if not len(rows):
                raise InputError(
                    f"no question of the split `profile` was put to both {plain} and {arm}",
                    remedy="coe fit gate labelled.jsonl",
                )
            for intent in INTENTS:
                at = np.flatnonzero(kinds == intent)
                measure, values = ACCURACY, np.asarray(gains[at], dtype=np.float64)
                if judge is not None and intent in STYLED and len(at):
                    measure = f"the judge {judge}"
                    values = pipeline.complete(_judged(pipeline, judge, arm, plain, own.take(at)))
                if len(at):
                    found.append(_Measured(arm, plain, intent, measure, values, len(at) - len(values), told))
    records = _decided(found)
    write_personas(personas_folder(pipeline.registry), records, intents.digest)
    return [WeighedPersona(arm, tuple(one for one in records if one.arm == arm)) for arm, _ in pairs]


def _decided(found: Sequence[_Measured]) -> list[PersonaRecord]:
    """All gates of a registry, tested together."""
    tested = [one for one in found if one.tested]
    corrected = iter(holm([paired_test(one.values, np.zeros(len(one.values))) for one in tested]))
    return [one.record(float(next(corrected)) if one.tested else None, len(tested)) for one in found]


async def _judged(pipeline: Pipeline, judge: str, arm: str, plain: str, questions: Questions) -> Column:
    """Per question with two whole drafts what the judge prefers in both orders: the persona's +1, the plain one -1, neither, or
    where both say the same, 0; a question on which a call to the judge failed is left out. Drafts come out of the store, or are drawn
    again."""
    registry, ask = pipeline.registry, asking(pipeline.pool)
    requests = {
        (name, one): Request(
            f"{name}:{one}:0",
            (registry.stream(one, registry.messages(one, text)),),
            registry.sampling(one),
            arm=one,
            parent=name,
        )
        for name, text in zip(questions.ids, questions.text, strict=True)
        for one in (plain, arm)
    }
    drafts = await ask(list(requests.values()))
    values: dict[str, float] = {}
    duels: dict[str, tuple[Request, Request]] = {}
    for name, text in zip(questions.ids, questions.text, strict=True):
        before, after = (drafts[requests[name, one].id] for one in (plain, arm))
        if not (before.ok and after.ok):
            continue
        values[name] = 0.0
        if before.text != after.text:
            duels[name] = judge_requests(registry, judge, text, (before.text, after.text), Asker(name), form=STYLE)
    said = await ask([request for pair in duels.values() for request in pair])
    for name, (first, second) in duels.items():
        if any(said[one.id].error is not None or said[one.id].stop == "cancelled" for one in (first, second)):
            del values[name]
            continue
        won = preferred((said[first.id], said[second.id]))
        values[name] = 0.0 if won is None else 2.0 * won - 1
    return np.array(list(values.values()), dtype=np.float64)
