"""The published ways of combining streams as settings of one primitive: weights, in the order of the streams, and a mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from composer.types import Mix

Recipe = tuple[tuple[float, ...], Mix]
"""The weight of each stream, and how they are mixed."""


def contrast(beta: float = 0.5, alpha: float = 0.1) -> Recipe:
    """Strong, weak: (1 + beta) strong - beta weak (O'Brien and Lewis 2023, "Contrastive Decoding Improves Reasoning in Large
    Language Models"; inside one model SCMoE, Shi et al. 2024). Beta 0 and alpha 1 are greedy decoding of the strong one."""
    return (1 + beta, -beta), Mix("logit", alpha)


def contrastive(alpha: float = 0.1) -> Recipe:
    """Large, small: log p(large) - log p(small) (Li et al. 2023, "Contrastive Decoding: Open-ended Text Generation as
    Optimization")."""
    return (1.0, -1.0), Mix("logprob", alpha)


def experts(strength: float = 2.0, top_p: float = 0.9) -> Recipe:
    """Base, expert, anti-expert: base + strength (expert - anti-expert), within the base's `top_p` (DExperts, Liu et al.
    2021)."""
    return (1.0, strength, -strength), Mix("logit", 0.0, top_p=top_p)


def proxy(strength: float = 1.0) -> Recipe:
    """Large, small tuned, small raw: large + strength (tuned - raw), over all tokens (proxy-tuning, Liu et al. 2024)."""
    return (1.0, strength, -strength), Mix("logit", 0.0)


def top_bottom(streams: int, k: int = 1, strength: float = 0.2, alpha: float = 0.1) -> Recipe:
    """Ranked best first: the best one, plus strength times (the `k` best - the `k` worst) (MoCo's logit contrast). Raises
    ValueError where best and worst would overlap."""
    if not 1 <= k <= streams // 2:
        raise ValueError(f"of {streams} streams at most {streams // 2} are best and as many worst, not {k}")
    weights = [strength] * k + [0.0] * (streams - 2 * k) + [-strength] * k
    weights[0] += 1.0
    return tuple(weights), Mix("logit", alpha)


def average(
    streams: int, space: Literal["logprob", "logit", "prob"] = "logprob", weights: Sequence[float] | None = None
) -> Recipe:
    """The mean of all, or a weighted one. Of log-probabilities one stream's near-zero vetoes a token, of probabilities it
    does not. Raises ValueError for another number of weights, or one below 0."""
    given = tuple(weights) if weights is not None else (1.0,) * streams
    if len(given) != streams or min(given) < 0 or not sum(given):
        raise ValueError(f"a mean of {streams} streams needs as many weights, none below 0, and not {given}")
    return tuple(weight / sum(given) for weight in given), Mix(space, 0.0)
