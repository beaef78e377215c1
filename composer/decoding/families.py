"""How each family of mixture-of-experts models gets from a router's logits to experts and their weights.

The rules repeat transformers 5.x operation by operation, so that what is recomputed equals the model's own choice bit for
bit (`composer.decoding.moe.check` tests that on the model at hand). Tensors are torch's and are only asked for their own
methods: nothing is imported. Shapes: logits [tokens, experts]; chosen experts and their weights [tokens, k].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol


class Rule(Protocol):
    """A family's arithmetic. `router` is the module that chooses: its settings are read from it."""

    ordered: bool  # whether the chosen come best first

    def ranking(self, router: Any, logits: Any, forbidden: Any = None) -> Any:
        """What decides who is chosen [tokens, experts], higher first; -inf: cannot be. `forbidden` is bool [experts]."""
        ...

    def raw(self, router: Any, logits: Any) -> Any:
        """Each expert's weight among all of them [tokens, experts], before any is chosen."""
        ...

    def weigh(self, router: Any, logits: Any, chosen: Any, used: Any, scale: Any, normalise: bool) -> Any:
        """The weights [tokens, k] of chosen experts; 0 where `used` (bool, None: all) is not. `scale` [experts] multiplies
        them before they are normalised, and `normalise` False leaves them as they are."""
        ...

    def reachable(self, router: Any, allowed: Any) -> int:
        """Of how many experts a token can choose at the least, where only those of `allowed` (bool [experts]) are."""
        ...


class Softmax:
    """Probabilities of all experts first, the best k of them after (Mixtral, OLMoE, Qwen2-MoE, Qwen3-MoE)."""

    ordered = True

    def ranking(self, router: Any, logits: Any, forbidden: Any = None) -> Any:
        found = logits.float().softmax(-1)
        return found if forbidden is None else found.masked_fill(forbidden, -math.inf)

    def raw(self, router: Any, logits: Any) -> Any:
        return logits.float().softmax(-1)

    def weigh(self, router: Any, logits: Any, chosen: Any, used: Any, scale: Any, normalise: bool) -> Any:
        if normalise and chosen.shape[-1] == 1:  # one of a low rank may have a probability of 0, which is no divisor
            return logits.new_ones(chosen.shape).float()
        found = _scaled(self.raw(router, logits).gather(-1, chosen), chosen, used, scale)
        return _normalised(found, scale) if normalise else found

    def reachable(self, router: Any, allowed: Any) -> int:
        return int(allowed.sum())


class TopFirst:
    """The best k logits first, their softmax after: weights always sum to 1 (GPT-OSS, GraniteMoE)."""

    ordered = True

    def ranking(self, router: Any, logits: Any, forbidden: Any = None) -> Any:
        return logits if forbidden is None else logits.masked_fill(forbidden, -math.inf)

    def raw(self, router: Any, logits: Any) -> Any:
        return logits.softmax(-1)

    def weigh(self, router: Any, logits: Any, chosen: Any, used: Any, scale: Any, normalise: bool) -> Any:
        if not normalise:
            return _scaled(self.raw(router, logits).gather(-1, chosen), chosen, used, scale)
        found = logits.gather(-1, chosen)
        found = (found if used is None else found.masked_fill(~used, -math.inf)).softmax(-1)
        if scale is None:
            return found
        return _normalised(found * scale[chosen], scale)

    def reachable(self, router: Any, allowed: Any) -> int:
        return int(allowed.sum())


class Groups:
    """Sigmoids; a correction bias that counts for the choice and not for the weight; only the best groups of experts can
    be chosen from; weights are scaled at the end (DeepSeek-V3)."""

    ordered = False

    def ranking(self, router: Any, logits: Any, forbidden: Any = None) -> Any:
        found = logits.sigmoid() + router.e_score_correction_bias
        if forbidden is not None:
            found = found.masked_fill(forbidden, -math.inf)
        best = found.view(-1, router.num_group, router.num_experts // router.num_group).topk(2, dim=-1)[0]
        if forbidden is not None:  # a group of which one expert is left is as good as that one
            best = best.masked_fill((best == -math.inf) & (best[..., :1] > -math.inf), 0.0)
        best = best.sum(-1)
        kept = best.topk(router.topk_group, dim=-1, sorted=False)[1]
        mask = best.new_zeros(best.shape).scatter(1, kept, 1).bool()
        return found.masked_fill(~mask.repeat_interleave(router.num_experts // router.num_group, -1), -math.inf)

    def raw(self, router: Any, logits: Any) -> Any:
        return logits.sigmoid() * router.routed_scaling_factor

    def weigh(self, router: Any, logits: Any, chosen: Any, used: Any, scale: Any, normalise: bool) -> Any:
        found = _scaled(logits.sigmoid().gather(1, chosen), chosen, used, scale)
        if normalise:
            found = found / (found.sum(-1, keepdim=True) + 1e-20)
        return found * router.routed_scaling_factor

    def reachable(self, router: Any, allowed: Any) -> int:
        # Groups without any allowed expert are never preferred; of the others the token may get the poorest.
        sizes = sorted(size for size in allowed.view(router.num_group, -1).sum(-1).tolist() if size)
        return int(sum(sizes[: router.topk_group]))


def _scaled(weights: Any, chosen: Any, used: Any, scale: Any) -> Any:
    if scale is not None:
        weights = weights * scale[chosen]
    return weights if used is None else weights.masked_fill(~used, 0.0)


def _normalised(weights: Any, scale: Any) -> Any:
    total = weights.sum(-1, keepdim=True)
    return weights / (total if scale is None else total.clamp(min=1e-20))  # all of them may be scaled to 0


@dataclass(frozen=True, slots=True)
class Family:
    """A family's name, its rule, and where the logits, the weights and the indices stand in what its router returns.
    `normalises`: always (True), or as the router's `norm_topk_prob` says (None)."""

    name: str
    rule: Rule
    order: tuple[int, int, int] = (0, 1, 2)
    normalises: bool | None = None


FAMILIES = {
    "MixtralTopKRouter": Family("Mixtral", Softmax(), normalises=True),
    "OlmoeTopKRouter": Family("OLMoE", Softmax()),
    "Qwen2MoeTopKRouter": Family("Qwen2-MoE", Softmax()),
    "Qwen3MoeTopKRouter": Family("Qwen3-MoE", Softmax()),
    "GraniteMoeTopKRouter": Family("GraniteMoE", TopFirst(), order=(2, 1, 0), normalises=True),
    "DeepseekV3TopkRouter": Family("DeepSeek-V3", Groups()),
    "GptOssTopKRouter": Family("GPT-OSS", TopFirst(), normalises=True),
}
"""By the name of the router's class in transformers 5.x. GraniteMoE returns its triple in the other order."""
