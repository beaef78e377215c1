"""What a policy of routing means at one layer of one model, and whether the model can follow it."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from composer.decoding.families import Family
from composer.decoding.policies import Bias, ExpertMask, KOverride, Place, Policy, RouterPolicy, RouterView, Scale
from composer.errors import RequestError


@dataclass(frozen=True, slots=True)
class Plan:
    """A policy at one layer."""

    policies: tuple[RouterPolicy, ...]
    bias: Any
    forbidden: Any
    scale: Any
    forced: tuple[tuple[int, float | None], ...]
    k: int

    def decide(self, view: RouterView) -> tuple[Any, Any]:
        logits = view.logits
        for policy in self.policies:
            if type(policy).edit_logits is not RouterPolicy.edit_logits:
                logits = policy.edit_logits(replace(view, logits=logits))
        if self.bias is not None:
            logits = logits + self.bias
        if self.forbidden is not None:
            logits = logits.masked_fill(self.forbidden, -math.inf)
        made = [one for policy in self.policies if (one := policy.choose(view, logits)) is not None]
        weights, indices = made[-1] if made else view.top(logits)
        return _with_forced(weights, indices, self.forced) if self.forced else (weights, indices)


def _with_forced(weights: Any, indices: Any, forced: Sequence[tuple[int, float | None]]) -> tuple[Any, Any]:
    torch = sys.modules["torch"]
    mean = weights.sum(-1) / (weights != 0).sum(-1).clamp(min=1)
    for expert, given in forced:
        there = (indices == expert) & (weights != 0)
        if given is not None:  # that weight, whoever chose it
            weights = weights.masked_fill(there, 0.0)
            extra = weights.new_full(mean.shape, given)
        else:
            extra = mean.masked_fill(there.any(-1), 0.0)
        weights = torch.cat([weights, extra[:, None]], -1)
        indices = torch.cat([indices, indices.new_full(indices[:, :1].shape, expert)], -1)
    return weights, indices


def plan_of(family: Family, router: Any, policy: Policy, layer: int) -> Plan | None:
    """What a policy means at a layer; None: nothing. Raises RequestError for experts that are not there or too few."""
    like, total = router.weight, int(router.num_experts)
    bias, scale = like.new_zeros(total), like.new_ones(total)
    states: dict[int, str] = {}
    given: dict[int, float] = {}
    k = int(router.top_k)
    for part in policy:
        if isinstance(part, KOverride):
            k = part.k if isinstance(part.k, int) else part.k.get(layer, k)
        elif isinstance(part, Bias | Scale):
            for expert, value in _here(part.by, layer):
                if isinstance(part, Bias):
                    bias[expert] += value
                else:
                    scale[expert] *= value
        elif isinstance(part, ExpertMask):
            states |= dict(_here(part.states, layer))
            given |= dict(_here(part.weights, layer))
    forbidden = bias.new_zeros(total).bool()
    forbidden[[expert for expert, state in states.items() if state == "forbid"]] = True
    policies = tuple(part for part in policy if isinstance(part, RouterPolicy))
    least = max([k, *(one.least(k) for one in policies)])
    can = family.rule.reachable(router, ~forbidden)
    if k < 1:
        raise RequestError(
            f"{k} experts are chosen", where=f"layer {layer} of {family.name}", remedy="choose 1 or more"
        )
    if least > can:
        raise RequestError(
            f"{least} experts are needed and a token can choose of {can}",
            where=f"layer {layer} of {family.name}",
            remedy="forbid fewer experts, or choose fewer",
        )
    forced = tuple((expert, given.get(expert)) for expert, state in states.items() if state == "force")
    plan = Plan(
        policies,
        bias if bias.any() else None,
        forbidden if forbidden.any() else None,
        scale.float() if (scale != 1).any() else None,
        forced,
        k,
    )
    idle = not policies and not forced and k == router.top_k
    return None if idle and plan.bias is plan.forbidden is plan.scale is None else plan


def _here(by: Mapping[Place, Any], layer: int) -> Iterator[tuple[int, Any]]:
    return ((expert, value) for (place, expert), value in by.items() if place == layer)


def known(family: Family, layers: Collection[int], experts: int, policy: Policy) -> None:
    """Raise RequestError for a layer or an expert that the model has not."""
    for part in policy:
        places: list[Place] = []
        if isinstance(part, ExpertMask):
            places = [*part.states, *part.weights]
        elif isinstance(part, Bias | Scale):
            places = [*part.by]
        elif isinstance(part, KOverride) and not isinstance(part.k, int):
            places = [(layer, 0) for layer in part.k]
        for layer, expert in places:
            if layer not in layers or not 0 <= expert < experts:
                raise RequestError(
                    f"there is no expert {expert} in a layer {layer}",
                    where=f"{type(part).__name__} for {family.name}",
                    remedy=f"layers with experts: {', '.join(map(str, layers))}; experts 0 to {experts - 1}",
                )
