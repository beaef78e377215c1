"""How far an answer is to be believed: P(right), and marks on answers of which confidence alone says too much."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from composer.answers.ballots import Table
from composer.answers.signals import Sureness
from routers.records import label_matrix
from routers.types import Array, Questions

DISSOCIATION, OFF_DOMAIN = "dissociation", "off-domain"
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, slots=True)
class Alarm:
    """An arm that is sure and wrong in a domain: the mean of P(right) less the share right there (`excess`), its lower
    95 % bound (`low`), over the last `questions` audited ones."""

    arm: str
    domain: str
    excess: float
    low: float
    questions: int


def dissociated(
    arm: Sequence[str | None],
    domain: Sequence[str | None],
    sure: Table,
    right: Table,
    *,
    window: int = 200,
    least: int = 20,
    over: float = 0.1,
) -> tuple[Alarm, ...]:
    """The cells (arm, domain) whose confidence has come loose from their accuracy, worst first.

    Source: the dissociation signature of METHODS F.5 (formula ours): over the last `window` audited answers of a cell, in
    the order given, the lower 95 % bound of mean confidence less accuracy is above `over`. Cells with fewer than `least`
    answers, and rows without an arm or a domain, say nothing.
    """
    cells: dict[tuple[str, str], list[float]] = {}
    for name, place, believed, worth in zip(arm, domain, sure, right, strict=True):
        if name is not None and place is not None:
            cells.setdefault((name, place), []).append(float(believed - worth))
    found = []
    for (name, place), gaps in cells.items():
        last = np.array(gaps[-window:])
        if len(last) >= least:
            mean = float(last.mean())
            low = mean - 1.96 * float(last.std(ddof=1)) / len(last) ** 0.5
            if low > over:
                found.append(Alarm(name, place, round(mean, 4), round(low, 4), len(last)))
    return tuple(sorted(found, key=lambda alarm: -alarm.low))


@dataclass(slots=True)
class Content:
    """The domain that a text speaks of: multinomial logistic regression (scikit-learn) on its vector, learnt from the
    profile's questions. A draft is off-domain where another domain than its question's is more probable than `over`
    (METHODS F.6, formula ours). Texts of fewer than `words` words (a number, a letter) are of no domain."""

    over: float = 0.7
    words: int = 5
    domains_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    weights_: Table = field(default_factory=lambda: np.zeros((0, 0)), init=False, repr=False, compare=False)

    def fit(self, questions: Questions) -> Self:
        """Learn from labelled questions; with fewer than two domains nothing is ever off-domain."""
        names, labels = label_matrix(questions)
        rows = np.flatnonzero(labels.sum(axis=1) == 1)
        domain = labels[rows].argmax(axis=1)
        if len(set(domain.tolist())) < 2:
            return self
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - half a second

        model = LogisticRegression(C=10.0, max_iter=2000).fit(questions.vectors[rows], domain)
        weights, level = model.coef_, model.intercept_
        if len(weights) == 1:  # two classes have one row
            weights, level = np.vstack([-weights, weights]) / 2, np.concatenate([-level, level]) / 2
        self.domains_ = tuple(names[int(place)] for place in model.classes_)
        self.weights_ = np.column_stack([weights, level])
        return self

    def speaks(self, text: str) -> bool:
        """Whether a text is long enough to be of a domain."""
        return bool(self.domains_) and len(_WORD.findall(text)) >= self.words

    def off(self, vectors: Array, asked: Sequence[str | None]) -> list[bool]:
        """Which texts, given as unit rows [n, dim], speak of another domain than was `asked` for (None: nobody knows)."""
        if not len(vectors):
            return []
        raw = vectors.astype(np.float64) @ self.weights_[:, :-1].T + self.weights_[:, -1]
        share = np.exp(raw - raw.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        top = [self.domains_[int(place)] for place in share.argmax(axis=1)]
        return [
            domain is not None and domain != said and bool(most > self.over)
            for domain, said, most in zip(asked, top, share.max(axis=1), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Trust:
    """What was measured of a pipeline's answers on its profile."""

    sureness: Sureness
    alarms: tuple[Alarm, ...]
    content: Content
    questions: int

    def loose(self, arm: str, domain: str | None) -> bool:
        """Whether the arm is known to be sure and wrong in this domain."""
        return any((alarm.arm, alarm.domain) == (arm, domain) for alarm in self.alarms)
