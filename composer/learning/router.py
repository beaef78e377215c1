"""`coe fit router`: learn a router from the profile, and install it only if it is shown to be better than one arm for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError
from composer.folders import replacing
from composer.places import has_router, router_folder
from composer.profile import Profile
from composer.registry.experts import Registry
from routers.coverage import CoveredRouter
from routers.family import PLAIN, USUAL, family, prefer
from routers.select import ranked
from routers.stats import calibration_split, paired_difference
from routers.store import fingerprint, load, save
from routers.types import Arm, Outcomes, Questions, Router

_LEAST = 30  # calibration questions, under which a paired test says nothing


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit_router` found: the candidates' share right on the questions they were chosen on, the one that was tested
    and its paired difference to the best single arm (mean, low, high) on questions that had no part in the choice."""

    candidates: Mapping[str, float]
    tested: str
    difference: tuple[float, float, float]
    questions: int
    dearer: bool
    router: Router
    installed: str

    def lines(self) -> Iterator[str]:
        """For people."""
        width = max(map(len, self.candidates))
        for name, share in sorted(self.candidates.items(), key=lambda pair: -pair[1]):
            yield f"{name:{width}}  {100 * share:5.1f}"
        mean, low, high = (100 * value for value in self.difference)
        yield f"{self.tested} - {PLAIN}: {mean:+.1f} points [{low:+.1f}, {high:+.1f}] on {self.questions} held-out questions"
        if self.installed != PLAIN:
            yield f"installed: {self.installed}"
        elif self.tested == PLAIN:
            yield f"installed: {PLAIN}; nothing else was better"
        elif self.dearer:
            yield f"installed: {PLAIN}; {self.tested} asks dearer arms, so it is not better at equal price"
        else:
            yield f"installed: {PLAIN}; that {self.tested} is better is not shown"


def fit_router(
    questions: Questions,
    outcomes: Outcomes,
    generalist: str | None = None,
    say: Callable[[str], None] = lambda _text: None,
) -> Fitted:
    """Fit every router on the profile less its calibration part, choose on a part of what is left, test on calibration.

    The chosen one leaves questions outside the profile to the `generalist`, in the test as in service. It is installed if
    the paired interval of its difference to the best single arm lies above 0 and it asks arms that are no dearer on
    average; it is then fitted on everything. Raises InputError for too few questions.
    """
    held = calibration_split(questions.ids, questions.vectors)
    learn, check = np.flatnonzero(~held), np.flatnonzero(held)
    if len(check) < _LEAST:
        raise InputError(
            f"{len(questions)} measured questions are too few to test a router on: {len(check)} of {_LEAST} are held out",
            remedy="measure more with `coe profile labelled.jsonl`",
        )
    labelled = len({name for own in questions.skills for name in own}) > 1
    makes = family(labelled)

    def served(name: str) -> Router:
        """As it would be installed."""
        return makes[name]() if name == PLAIN else CoveredRouter(makes[name](), generalist)

    part = questions.take(learn)
    again = calibration_split(part.ids, part.vectors, seed=1)
    inner, outer = learn[~again], learn[again]
    shares = {}
    for name, make in makes.items():
        say(f"fitting {name}")
        router = make().fit(questions.take(inner), outcomes.take(inner))
        shares[name], _ = _right(router, questions.take(outer), outcomes.take(outer))
    tested = prefer(shares, USUAL)
    rights, prices = {}, {}
    for name in {tested, PLAIN}:
        router = served(name).fit(questions.take(learn), outcomes.take(learn))
        rights[name], prices[name] = _right(router, questions.take(check), outcomes.take(check))
    difference = paired_difference(rights[tested], rights[PLAIN])
    dearer = prices[tested] > prices[PLAIN] * (1 + 1e-9)
    installed = tested if difference[1] > 0 and not dearer else PLAIN
    return Fitted(
        candidates={name: float(own.mean()) for name, own in shares.items()},
        tested=tested,
        difference=difference,
        questions=len(check),
        dearer=dearer,
        router=served(installed).fit(questions, outcomes),
        installed=installed,
    )


def install(fitted: Fitted, registry: Registry, questions: Questions, outcomes: Outcomes) -> Path:
    """Put the router where `decide` finds it. Raises InputError if that cannot be written."""
    folder = router_folder(registry)
    try:
        with replacing(folder) as fresh:
            save(fitted.router, fresh, keys=_keys(registry, questions, outcomes))
    except OSError as why:
        raise InputError(
            f"no router can be written here: {why.strerror or why}", where=str(folder), remedy="check the folder"
        ) from why
    return folder


def installed_router(registry: Registry, questions: Questions, outcomes: Outcomes) -> Router | None:
    """The router that was installed for this registry and these outcomes, None where there is none.

    Raises RouterError if it was fitted on other outcomes or another encoder, or cannot be read.
    """
    if not has_router(registry):
        return None
    return load(router_folder(registry), keys=_keys(registry, questions, outcomes))


def outcomes_of(profile: Profile, arms: tuple[Arm, ...], generalist: str) -> tuple[Questions, Outcomes]:
    """A profile as routers want it: the arms that have a record, and the generalist."""
    known = profile.known
    questions, _ = profile.columns()
    return questions, profile.outcomes(questions, [arm for arm in arms if arm.name in known or arm.name == generalist])


def _keys(registry: Registry, questions: Questions, outcomes: Outcomes) -> dict[str, str]:
    return {"encoder": registry.encoder_sha, "outcomes": fingerprint(questions, outcomes)}


def _right(router: Router, questions: Questions, outcomes: Outcomes) -> tuple[NDArray[np.float64], float]:
    """What the best-scored arm was right on each question (0 where it was not run), and the mean price asked."""
    scores = router.score(replace(questions, skills=()))
    best = ranked(scores, router.arms)[:, 0]
    truth = np.nan_to_num(outcomes.matrix(len(questions)), nan=0.0)
    prices = np.array([arm.price for arm in router.arms])
    return truth[np.arange(len(best)), best], float(prices[best].mean())
