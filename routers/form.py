"""The form router: what a question looks like (length, digits, options, formulas) says something about who answers it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from routers.perarm import Table
from routers.ridge import RidgeRouter, with_one
from routers.types import Outcomes, Questions, Reason

_OPTION = re.compile(r"(?m)^[A-Z]\) (.*)$")
_FAR = 3.0  # standard deviations; a stranger form counts as the strangest known one
FEATURES = (
    "characters (log)",
    "words (log)",
    "mean length of a word",
    "share of digits",
    "share of capitals",
    "share of signs",
    "lines (log)",
    "formula",
    "ends with a question mark",
    "options",
    "characters of an option (log)",
    "share of digits in the options",
    "code",
)


@dataclass(slots=True)
class FormRouter(RidgeRouter):
    """Ridge regression (`RidgeRouter`) on thirteen numbers of the text instead of its vector, standardised on the profile.

    Source: ours; rule routers (LiteLLM's, vLLM Semantic Router's) look at the same things by hand-set thresholds. A
    sentence encoder hardly sees them, so the two complement each other (docs/log.md). Options are lettered lines, "A) …".
    """

    mean_: Table = field(default_factory=lambda: np.zeros(0), init=False, repr=False, compare=False)
    spread_: Table = field(default_factory=lambda: np.zeros(0), init=False, repr=False, compare=False)

    def _common(self, questions: Questions, outcomes: Outcomes) -> None:
        raw = features(questions.text)
        self.mean_ = raw.mean(axis=0)
        self.spread_ = np.where(raw.std(axis=0) > 0, raw.std(axis=0), 1.0)
        RidgeRouter._common(self, questions, outcomes)

    def _rows(self, questions: Questions) -> Table:
        return with_one(np.clip((features(questions.text) - self.mean_) / self.spread_, -_FAR, _FAR))

    def _explain(self, questions: Questions) -> list[Reason]:
        return [Reason(note="by the form of the text: length, digits, options, formulas")] * len(questions)


def features(texts: tuple[str, ...]) -> Table:
    """The numbers of `FEATURES`, [n, 13]."""
    return np.array([_features(text) for text in texts]).reshape(len(texts), len(FEATURES))


def _features(text: str) -> list[float]:
    options = _OPTION.findall(text)
    stem = _OPTION.sub("", text).strip()
    words, told = stem.split(), " ".join(options)
    n = len(stem) + 1
    return [
        float(np.log1p(len(stem))),
        float(np.log1p(len(words))),
        sum(map(len, words)) / max(1, len(words)),
        sum(map(str.isdigit, stem)) / n,
        sum(map(str.isupper, stem)) / n,
        sum(not sign.isalnum() and not sign.isspace() for sign in stem) / n,
        float(np.log1p(stem.count("\n"))),
        float("\\" in text or "$" in text),
        float(stem.endswith("?")),
        float(len(options)),
        float(np.log1p(len(told) / max(1, len(options)))),
        sum(map(str.isdigit, told)) / (len(told) + 1),
        float("def " in text or "()" in text or "{" in text),
    ]
