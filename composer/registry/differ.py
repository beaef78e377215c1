"""How far two models part in what they expect next: what tells an adapter at work from a base that answers in its name."""

from __future__ import annotations

import math
from collections.abc import Mapping

SAME = 1e-3  # nats; the same weights asked twice differ by far less, a trained adapter by far more
_LEAST = 1e-6  # of a probability that is what rounding left of 1


def difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float | None:
    """The largest |change| over the tokens that both lists of alternatives (token -> log-probability) hold; if they share
    none, what it must be at least, given what either list leaves to the other's likeliest token. None where one is empty.

    >>> difference({"12": -0.5, "To": -1.0}, {"To": -3.0, "The": -0.1})
    2.0
    """
    if not ours or not theirs:
        return None
    shared = ours.keys() & theirs.keys()
    if shared:
        return max(abs(ours[token] - theirs[token]) for token in shared)
    return max(_rise(ours, theirs), _rise(theirs, ours))


def _rise(high: Mapping[str, float], low: Mapping[str, float]) -> float:
    """How much likelier the likeliest token of `high` is at least than where it is not among the likeliest, `low`."""
    left = max(1 - sum(math.exp(min(one, 0.0)) for one in low.values()), _LEAST)
    return max(high.values()) - min(math.log(left), *low.values())
