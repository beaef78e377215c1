"""Decoding with several activations of one mixture-of-experts model: each path is a policy of routing, all paths of a prompt
are rows of one batch with a cache each, and `composer.decoding.combine` makes one distribution of their scores.

`scmoe` is the self-contrast of Shi et al. 2024 ("Unchosen Experts Can Contribute Too: Unleashing MoE Models' Power by
Self-Contrast"; METHODS C.1): strong, the model's own routing, against weak, an expert that it would not choose. One path
alone is plain decoding under a policy, such as another number of experts.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from composer.decoding.combine import combine
from composer.decoding.draw import Draws
from composer.decoding.moe import Moe, routing
from composer.decoding.policies import Counts, Policy, RandomExpert, RankExpert, WeakWeight
from composer.decoding.recipes import Recipe, average, contrast
from composer.errors import RequestError
from composer.types import Sampling

GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Written:
    """What was written after one prompt: its tokens, with the one that ended it, and the natural-log probability that each
    had in the combined distribution, before temperature and whatever else the sampling cuts."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was written after each prompt, and what it cost.

    `passes` counts forward passes of one row: a token that two paths agree on costs two. `activations` is, per path, how
    many experts served a token, all layers together and prompt tokens with it: a weak pass of one expert is not a whole
    one. `counts` says which experts those were.
    """

    written: tuple[Written, ...]
    passes: int
    activations: Mapping[str, float]
    counts: Counts


def scmoe(
    moe: Moe,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    *,
    end: Collection[int] = (),
    beta: float = 0.5,
    alpha: float = 0.1,
    weak_rank0: int | Literal["random"] | None = None,
    weak_weight: WeakWeight = "one",
    strong: Policy = (),
    seed: int = 0,
) -> Decoded:
    """Self-contrast: (1 + beta) strong - beta weak, over what strong holds for at least `alpha` times as probable as its best.

    `weak_rank0` is the rank, from 0, of the one expert that answers in each layer of the weak path; None is the best one
    that is not chosen (2 for top-2 models), "random" the control, drawn by `seed`. `weak_weight`: "one" or its "raw" share.
    See `decode` for the rest. Raises RequestError for a rank that the model has not.
    """
    weak: RankExpert | RandomExpert
    if weak_rank0 == "random":
        weak = RandomExpert(seed, weak_weight)
    else:
        weak = RankExpert(moe.default_k if weak_rank0 is None else weak_rank0, weak_weight)
    return decode(moe, prompts, {"strong": strong, "weak": (weak,)}, contrast(beta, alpha), sampling, end=end)


def plain(
    moe: Moe,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    *,
    end: Collection[int] = (),
    policy: Policy = (),
) -> Decoded:
    """One path: the model under one policy."""
    return decode(moe, prompts, {"strong": policy}, average(1, "logit"), sampling, end=end)


def decode(
    moe: Moe,
    prompts: Sequence[Sequence[int]],
    paths: Mapping[str, Policy],
    recipe: Recipe,
    sampling: Sampling | Sequence[Sampling] = GREEDY,
    *,
    end: Collection[int] = (),
) -> Decoded:
    """Continue each prompt (token ids) until one of the tokens `end` or `max_tokens`, all of them in one batch.

    Every path has read the whole prompt by its own routing, and goes on with what all of them together have said. Prompts
    may differ in length: they are padded on the left, which attention, positions and counts leave out; who has ended
    leaves the batch. `recipe` weighs the paths in their order. `sampling` is for all prompts or for each its own; of it
    `max_tokens`, what draws a token, and the seed count. Raises RequestError for prompts that are empty.
    """
    torch = sys.modules["torch"]
    given = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
    if not prompts or not all(prompts) or len(given) != len(prompts):
        raise RequestError(f"{len(prompts)} prompts with {len(given)} samplings", remedy="each prompt needs a token")
    weights, mix = recipe
    names, counts = list(paths), Counts()
    draws = [Draws(one) for one in given]
    said: list[list[int]] = [[] for _ in prompts]
    sure: list[list[float]] = [[] for _ in prompts]
    device = moe.model.get_input_embeddings().weight.device
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    open_ = [row for row in range(len(prompts)) if given[row].max_tokens > 0]
    told = torch.tensor([[0] * padding[row] + list(prompts[row]) for row in open_] * len(names), device=device)
    mask: Any = None  # without padding the model needs none
    places = torch.arange(longest, device=device).expand(len(told), -1)
    if any(padding):
        mask = torch.tensor([[0] * padding[row] + [1] * len(prompts[row]) for row in open_] * len(names), device=device)
        places = (mask.cumsum(-1) - 1).clamp(min=0)
    cache: Any = None
    passes = 0
    with torch.inference_mode(), routing(moe, paths, counts=counts) as hooks:
        hooks.rows = [name for name in names for _ in open_]
        while open_:
            passed = moe.model(
                input_ids=told,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = passed.past_key_values
            passes += len(told)
            logits = passed.logits[:, -1].float()
            if device.type == "cpu":  # numpy's functions take two thirds of the time
                rows = combine(logits.numpy().reshape(len(names), len(open_), -1), weights, mix)
            else:
                rows = combine(logits.chunk(len(names)), weights, mix).cpu().numpy()
            best = rows.argmax(-1).tolist()
            step: list[int] = []
            kept: list[int] = []
            for place, row in enumerate(open_):
                if _is_greedy(given[row]):
                    token = best[place]  # what `Draws` does, for all rows at once
                else:  # what a penalty counts as repeated is all that stands before, as in vLLM
                    repeated = {*prompts[row], *said[row]} if given[row].repetition_penalty != 1 else ()
                    token = draws[row].next(rows[place], repeated)
                said[row].append(token)
                step.append(token)
                if token not in end and len(said[row]) < given[row].max_tokens:
                    kept.append(place)
            for row, value in zip(open_, _logprobs(rows, best, step), strict=True):
                sure[row].append(value)
            told = torch.tensor([[step[place]] for place in kept] * len(names), device=device)
            if len(kept) < len(open_):
                chosen = [path * len(open_) + place for path in range(len(names)) for place in kept]
                open_ = [open_[place] for place in kept]
                hooks.rows = [name for name in names for _ in open_]
                if open_:
                    cache.batch_select_indices(torch.tensor(chosen, device=device))
                    mask, places = mask if mask is None else mask[chosen], places[chosen]
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], -1)
            places = places[:, -1:] + 1
    written = tuple(
        Written(tuple(tokens), tuple(each), "stop" if tokens and tokens[-1] in end else "length")
        for tokens, each in zip(said, sure, strict=True)
    )
    return Decoded(written, passes, {name: counts.per_token(name) for name in names}, counts)


def _logprobs(rows: Any, best: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """What `log_softmax` of numpy's rows [rows, vocabulary] has for one token of each, without the rest; `best` are those of
    the highest scores."""
    np, every = sys.modules["numpy"], range(len(rows))
    most = rows[every, best]
    total = np.exp(rows - most[:, None]).sum(-1)
    return (rows[every, tokens] - most - np.log(total)).tolist()  # type: ignore[no-any-return]


def _is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature == 0 and sampling.repetition_penalty == 1
