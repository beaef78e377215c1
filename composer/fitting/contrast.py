"""`coe fit contrast`: which contrast makes an arm right more often, with which numbers, shown on held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from composer.errors import InputError
from composer.fitting.contrasting import Asked, Tried, Variant, prepared, try_all
from composer.jsonl import Labelled
from composer.learning.fitted import contrast_prints
from composer.pipeline import Pipeline
from composer.places import contrasts_folder
from composer.records.contrasts import ContrastRecord, write_contrasts
from routers.stats import calibration_split, paired_difference

BETAS, ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9), (0.1,)
"""Those of SCMoE (METHODS C.1)."""
_FAILED = 0.1  # share of drafts that may fail
_LEAST = 30  # held-out questions, under which a paired test says nothing


@dataclass(frozen=True, slots=True)
class FoundContrast:
    """What was found for the arm `plain`: the best declared arm and its numbers on the part they were chosen on, and the
    paired difference on `held` questions that had no part in the choice (mean, low, high). `learnt`: points of accuracy
    that each declared arm gains there, with its best numbers."""

    plain: str
    arm: str
    beta: float
    alpha: float
    learnt: dict[str, tuple[float, float, float]]
    right: float
    questions: int
    held: int
    difference: tuple[float, float, float]
    passes: float

    @property
    def installed(self) -> bool:
        """Whether it is shown to help."""
        return self.difference[1] > 0

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"{self.plain}: {self.questions} questions to choose on, {100 * self.right:.1f} % right as it is"
        for arm, (gain, beta, alpha) in sorted(self.learnt.items(), key=lambda pair: -pair[1][0]):
            yield f"  {arm:24} {100 * gain:+6.1f} points with beta {beta:g}, alpha {alpha:g}"
        mean, low, high = (100 * value for value in self.difference)
        yield (
            f"  {self.arm} - {self.plain}: {mean:+.1f} points [{low:+.1f}, {high:+.1f}] on {self.held} held-out questions, "
            f"{self.passes:.2f} times the forward passes"
        )
        yield f"  {'on' if self.installed else 'off: that it helps is not shown'}"


def fit_contrasts(
    pipeline: Pipeline,
    items: Sequence[Labelled],
    *,
    betas: Sequence[float] = BETAS,
    alphas: Sequence[float] = ALPHAS,
    say: Callable[[str], None] = lambda _text: None,
) -> list[FoundContrast]:
    """Ask every arm that a contrast is declared for as it is and with every contrast, beta and alpha; choose among them on
    what is not calibration, and test the choice there, on the questions that the router gives to the arm.

    It is turned on if the paired interval of what it gains lies above 0, and off otherwise; an arm that is given too few
    questions stays off. What failed on either side counts on neither. Closes the pipeline. Raises InputError where no
    contrast is declared, every arm is given too few questions, or many drafts fail.
    """
    declared: dict[str, list[str]] = {}
    for arm, plain in pipeline.registry.contrasts().items():
        declared.setdefault(plain, []).append(arm)
    if not declared:
        raise InputError(
            "this registry declares no contrast", where=str(pipeline.settings.path), remedy="add `contrasts:` to it"
        )
    prints = contrast_prints(pipeline.registry)
    found: list[FoundContrast] = []
    few: list[str] = []
    with pipeline:
        asked = prepared(pipeline, items)
        for plain, arms in declared.items():
            rows = asked.routed(plain)
            held = calibration_split([asked.questions.ids[row] for row in rows], asked.questions.vectors[rows])
            if held.sum() < _LEAST:
                few.append(
                    f"the router gives {len(rows)} of these questions to {plain}, too few to test a contrast on: "
                    f"{held.sum()} of {_LEAST} are held out"
                )
                say(f"{few[-1]}; it stays off")
                continue
            say(f"{plain}: {len(rows)} questions, {len(arms) * len(betas) * len(alphas)} ways to decode")
            own = asked.only(rows)
            found.append(pipeline.complete(_fit(pipeline, own, plain, arms, held, betas, alphas)))
    if not found:
        raise InputError("; ".join(few), remedy="give more labelled questions: coe fit contrast labelled.jsonl")
    write_contrasts(
        contrasts_folder(pipeline.registry),
        [
            ContrastRecord(
                *(one.plain, one.arm, one.beta, one.alpha, *one.difference, one.held),
                prints=(prints[one.plain], prints[one.arm]),
            )
            for one in found
            if one.installed
        ],
    )
    return found


async def _fit(
    pipeline: Pipeline,
    asked: Asked,
    plain: str,
    arms: Sequence[str],
    held: np.ndarray[tuple[int], np.dtype[np.bool_]],
    betas: Sequence[float],
    alphas: Sequence[float],
) -> FoundContrast:
    learn, check = np.flatnonzero(~held), np.flatnonzero(held)
    ways = [Variant(plain, arm, beta, alpha) for arm in arms for beta in betas for alpha in alphas]
    as_it_is, *tried = await try_all(pipeline, asked.only(learn), [Variant(plain), *ways])

    def gain(one: Tried) -> float:
        both = _told(as_it_is, one)
        return float((one.right - as_it_is.right)[both].mean())

    of_arm = {arm: max((one for one in tried if one.variant.arm == arm), key=gain) for arm in arms}
    best = max(of_arm.values(), key=gain).variant
    before, after = await try_all(pipeline, asked.only(check), [Variant(plain), best])
    told = _told(before, after)
    assert best.arm is not None
    return FoundContrast(
        plain,
        best.arm,
        best.beta,
        best.alpha,
        {arm: (gain(one), one.variant.beta, one.variant.alpha) for arm, one in of_arm.items()},
        float(as_it_is.right.mean()),
        len(learn),
        int(told.sum()),
        paired_difference(after.right[told], before.right[told]),
        float(after.passes.sum() / max(before.passes.sum(), 1.0)),
    )


def _told(one: Tried, other: Tried) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The questions that both have a reply to. Raises InputError where many have none."""
    both = one.told & other.told
    if both.mean() < 1 - _FAILED:
        errors = (draft.error for tried in (one, other) for [draft, *_] in tried.drafts)
        first = next((error.message for error in errors if error is not None), "they were cut short")
        raise InputError(
            f"{len(both) - both.sum()} of {len(both)} questions to {one.variant.plain} have no reply: {first}",
            where=other.variant.arm or other.variant.plain,
            remedy="coe experts check",
        )
    return both
