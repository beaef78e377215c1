"""One primitive for every way of decoding with several streams (METHODS C): a weighted sum of their scores, in a space, over
the tokens that one stream finds plausible.

Arrays are numpy's or torch's, of shape [..., tokens], and what comes back is of the same kind. Nothing here knows a model,
and nothing is imported but the standard library and `composer.types`: a process of another interpreter can load it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from composer.types import Mix


def combine(streams: Sequence[Any], weights: Sequence[float], mix: Mix) -> Any:
    """The combined scores [..., tokens]; their softmax is the distribution to draw from. -inf: not plausible.

    Each stream is an array of logits or log-probabilities [..., tokens], all of one shape; half precision wants to be
    widened before. A token to which a stream gives -inf keeps it where that stream's weight is above 0, and counts as
    its least probable one where it is below: that a weak stream cannot say a token is no reason to say it. The token
    that ends a text is one like any other. Raises ValueError for another number of weights, or shapes that differ.
    """
    if len(streams) != len(weights):
        raise ValueError(f"{len(streams)} streams and {len(weights)} weights")
    if any(stream.shape != streams[0].shape for stream in streams):
        raise ValueError(f"streams of shapes {', '.join(str(tuple(stream.shape)) for stream in streams)}")
    xp = _library(streams[0])
    total: Any = None
    for weight, stream in zip(weights, streams, strict=True):
        if weight == 0:  # 0 times -inf would be no number
            continue
        part = stream if mix.space == "logit" else log_softmax(stream)
        if mix.space == "prob":
            part = xp.exp(part)
        elif weight < 0:
            part = _finite(part)
        total = weight * part if total is None else total + weight * part
    if total is None:
        total = xp.zeros_like(streams[0])
    if mix.space == "prob":
        some = total > 0
        total = xp.where(some, xp.log(xp.where(some, total, 1.0)), -math.inf)
    return xp.where(plausible(streams[mix.mask_from], mix.alpha, mix.top_p), total, -math.inf)


def plausible(scores: Any, alpha: float, top_p: float = 1.0) -> Any:
    """Which tokens [..., tokens] are at least `alpha` times as probable as the best one (alpha 0: all that have any
    probability), and among the fewest that hold `top_p` of it. The best one always is."""
    xp = _library(scores)
    logprobs = log_softmax(scores)
    if alpha > 0:
        kept = logprobs >= xp.amax(logprobs, axis=-1, keepdims=True) + math.log(alpha)
    else:
        kept = logprobs > -math.inf
    if top_p == 1:
        return kept
    order = xp.argsort(-logprobs, axis=-1)
    ranked = xp.exp(_taken(logprobs, order))
    within = xp.cumsum(ranked, axis=-1) - ranked < top_p  # what is more probable holds less than that
    return kept & _taken(within, xp.argsort(order, axis=-1))


def log_softmax(scores: Any) -> Any:
    """Natural-log probabilities [..., tokens]; what is log-probabilities already stays as it is."""
    xp = _library(scores)
    shifted = scores - xp.amax(scores, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def _finite(scores: Any) -> Any:
    """The scores, with the least finite one of each row in the place of -inf."""
    xp = _library(scores)
    none = scores == -math.inf
    if not none.any():  # so nearly always
        return scores
    least = xp.amin(xp.where(none, math.inf, scores), axis=-1, keepdims=True)
    return xp.where(none, least, scores)


def _library(array: Any) -> Any:
    """numpy or torch: the functions used here have the same names and arguments in both."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _taken(array: Any, places: Any) -> Any:
    """The entries at `places` along the last axis."""
    xp = _library(array)
    return xp.take_along_axis(array, places, axis=-1) if hasattr(xp, "take_along_axis") else array.gather(-1, places)
