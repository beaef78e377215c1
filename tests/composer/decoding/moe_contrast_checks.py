"""What must hold of several paths through a mixture-of-experts model decoded as one text, for every family."""

from __future__ import annotations

import math
from typing import Any

import torch
from moe_kit import LAYERS, PROMPTS

from composer.decoding.combine import combine
from composer.decoding.draw import Draws
from composer.decoding.moe import Moe, routing
from composer.decoding.policies import KOverride, RandomExpert, RankExpert
from composer.decoding.recipes import average, contrast
from composer.decoding.scmoe import decode, plain, scmoe
from composer.types import Sampling


def naive(
    model: Moe, prompt: list[int], weak: Any, beta: float, alpha: float, sampling: Sampling, end: set[int]
) -> tuple[Any, Any]:
    """Self-contrast as one would write it first: two passes, two caches, one prompt, one formula of its own."""
    said: list[int] = []
    sure: list[float] = []
    draws, caches = Draws(sampling), {"strong": None, "weak": None}
    while len(said) < sampling.max_tokens and not (said and said[-1] in end):
        told = torch.tensor([said[-1:] or prompt])
        scores = {}
        for name, policy in (("strong", ()), ("weak", weak)):
            with torch.no_grad(), routing(model, {name: policy}):
                passed = model.model(told, past_key_values=caches[name], use_cache=True)
            caches[name], scores[name] = passed.past_key_values, passed.logits[0, -1].double()
        strong, weakly = scores["strong"], scores["weak"]
        mixed = (1 + beta) * strong - beta * weakly
        mixed[strong < strong.max() + math.log(alpha)] = -math.inf
        said.append(draws.next(mixed.numpy()))
        sure.append(float(mixed.log_softmax(-1)[said[-1]]))
    return tuple(said), sure


def self_contrast_equals_two_passes_with_two_caches(family: str, moe: Moe) -> None:
    for sampling in (Sampling(24), Sampling(16, temperature=0.8, top_p=0.9, seed=11)):
        for rank0, weight in ((None, "one"), (3, "raw"), ("random", "one")):
            weak = RandomExpert(4, weight) if rank0 == "random" else RankExpert(2 if rank0 is None else rank0, weight)
            wanted = [naive(moe, prompt, (weak,), 0.5, 0.1, sampling, {1, 4}) for prompt in PROMPTS]
            found = scmoe(moe, PROMPTS, sampling, end={1, 4}, weak_rank0=rank0, weak_weight=weight, seed=4)
            assert [one.tokens for one in found.written] == [tokens for tokens, _ in wanted]
            for one, (_, sure) in zip(found.written, wanted, strict=True):
                assert all(abs(a - b) < 2e-3 for a, b in zip(one.logprobs, sure, strict=True)), (one.logprobs, sure)
            tokens = sum(len(one.tokens) for one in found.written)
            assert found.passes == 2 * tokens
            assert found.activations == {"strong": 2 * LAYERS, "weak": LAYERS}
            assert found.counts.tokens["strong"] == sum(map(len, PROMPTS)) + tokens - len(PROMPTS)


def those_who_end_leave_the_batch(family: str, moe: Moe) -> None:
    """Whoever ends first, the others go on as if they had been alone; what ends a text is a token that was written."""
    free = plain(moe, PROMPTS, Sampling(20)).written
    end = {free[1].tokens[4], free[2].tokens[9]}
    samplings = [Sampling(20), Sampling(20), Sampling(20)]
    found = plain(moe, PROMPTS, samplings, end=end).written
    for prompt, one, whole in zip(PROMPTS, found, free, strict=True):
        stops = [place for place, token in enumerate(whole.tokens) if token in end]
        assert one.tokens == whole.tokens[: stops[0] + 1 if stops else 20]
        assert one.stop == ("stop" if stops else "length")
        assert one.tokens == plain(moe, [prompt], Sampling(20), end=end).written[0].tokens
    assert len({len(one.tokens) for one in found}) > 1
    mixed = plain(moe, PROMPTS, [Sampling(0), Sampling(3), Sampling(9)]).written
    assert [one.tokens for one in mixed] == [whole.tokens[:n] for whole, n in zip(free, (0, 3, 9), strict=True)]


def beta_0_and_alpha_1_are_greedy(family: str, moe: Moe) -> None:
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        said = moe.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )  # transformers' own loop
        greedy = tuple(said[0, len(prompt) :].tolist())
        assert plain(moe, [prompt], Sampling(16)).written[0].tokens == greedy
        assert scmoe(moe, [prompt], Sampling(16), beta=0.0).written[0].tokens == greedy
        assert scmoe(moe, [prompt], Sampling(16), beta=0.9, alpha=1.0).written[0].tokens == greedy
    assert any(
        scmoe(moe, [prompt], Sampling(16), beta=0.9).written != plain(moe, [prompt], Sampling(16)).written
        for prompt in PROMPTS
    )


def several_paths_are_averaged(family: str, moe: Moe) -> None:
    """Paths of another number of experts, by the same primitive: equal ones are one."""
    paths = {"two": (), "also two": (KOverride(2),), "three": (KOverride(3),)}
    one = plain(moe, PROMPTS, Sampling(8)).written
    same = decode(moe, PROMPTS, dict(list(paths.items())[:2]), average(2), Sampling(8)).written
    assert [each.tokens for each in same] == [each.tokens for each in one]
    found = decode(moe, PROMPTS, paths, average(3), Sampling(8))
    assert found.activations == {"two": 2 * LAYERS, "also two": 2 * LAYERS, "three": 3 * LAYERS}


def the_golden_values() -> None:
    weights, mix = contrast(0.5, 0.1)
    found = combine([torch.tensor([2.0, 1.0, 0.0, -1.0]), torch.tensor([4.0, 0.0, 0.0, 0.0])], weights, mix)
    assert found.tolist() == [1.0, 1.5, 0.0, -math.inf] and int(found.argmax()) == 1
    assert Draws(Sampling()).next(found.numpy()) == 1
