"""Control over the routing inside one mixture-of-experts model of transformers: hooks that see each layer's choice of
experts and may replace it, for each row of a batch by another policy (METHODS K.1).

The policies are in `composer.decoding.policies`. Nothing is imported but the standard library and this package: the model brings torch.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from composer.decoding.families import FAMILIES, Family
from composer.decoding.policies import (
    Bias,
    Counts,
    ExpertMask,
    KOverride,
    Phase,
    Place,
    Policy,
    RouterPolicy,
    RouterView,
    Scale,
)
from composer.errors import RequestError, RoutingError


@dataclass(slots=True)
class Moe:
    """A model whose routing can be controlled: `check` makes it. `routers` are by layer."""

    model: Any
    family: Family
    routers: dict[int, Any]
    busy: bool = False

    @property
    def default_k(self) -> int:
        """How many experts the model itself chooses."""
        return int(next(iter(self.routers.values())).top_k)

    @property
    def experts(self) -> int:
        """How many experts a layer has."""
        return int(next(iter(self.routers.values())).num_experts)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A policy at one layer."""

    router: Any
    policies: tuple[RouterPolicy, ...]
    bias: Any
    forbidden: Any
    scale: Any
    forced: tuple[tuple[int, float | None], ...]
    k: int

    def decide(self, view: RouterView) -> tuple[Any, Any]:
        logits = view.logits
        for policy in self.policies:
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


def _plan(moe: Moe, policy: Policy, layer: int) -> _Plan | None:
    """What a policy means at a layer; None: nothing. Raises RequestError for experts that are not there or too few."""
    router = moe.routers[layer]
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
    can = moe.family.rule.reachable(router, ~forbidden)
    if k < 1 or least > can:
        raise RequestError(
            f"{least} experts are needed and a token can choose of {can}",
            where=f"layer {layer} of {moe.family.name}",
            remedy="forbid fewer experts, or choose fewer",
        )
    forced = tuple((expert, given.get(expert)) for expert, state in states.items() if state == "force")
    plan = _Plan(
        router,
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


def _known(moe: Moe, policy: Policy) -> None:
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
            if layer not in moe.routers or not 0 <= expert < moe.experts:
                raise RequestError(
                    f"there is no expert {expert} in a layer {layer}",
                    where=f"{type(part).__name__} for {moe.family.name}",
                    remedy=f"layers with experts: {', '.join(map(str, moe.routers))}; experts 0 to {moe.experts - 1}",
                )


class Routing:
    """The hooks while they are installed. `rows` names the path of each row of the batch; it may be set anew between two
    forward passes. One path alone is everybody's."""

    def __init__(self, moe: Moe, paths: Mapping[str, Policy], counts: Counts | None) -> None:
        self.rows: Sequence[str] = ()
        self._moe, self._counts = moe, counts
        for policy in paths.values():
            _known(moe, policy)
        self._plans = {
            name: {layer: _plan(moe, policy, layer) for layer in moe.routers} for name, policy in paths.items()
        }
        self._groups: list[tuple[str, Any]] = []
        self._tokens: dict[str, Any] = {}
        self._phase: Phase = "prefill"

    def before(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before each pass of the model: which tokens there are, and whose."""
        torch = sys.modules["torch"]
        given: Any = kwargs.get("input_ids", args[0] if args else None)
        if given is None:
            given = kwargs["inputs_embeds"]
        batch, length = given.shape[:2]
        names = list(self.rows) or [*self._plans] * (batch if len(self._plans) == 1 else 1)
        if len(names) != batch or not set(names) <= set(self._plans):
            raise RequestError(
                f"a batch of {batch} rows with the paths {names}",
                remedy="name one path for each row, all of them given",
            )
        past = kwargs.get("past_key_values")
        seen = past.get_seq_length() if past is not None else 0
        self._phase = "decode" if seen and length == 1 else "prefill"
        mask: Any = kwargs.get("attention_mask")
        positions: Any = kwargs.get("position_ids")
        if mask is not None and getattr(mask, "ndim", 0) != 2:
            raise RequestError("padding is only known from a mask of shape [rows, tokens]", where="attention_mask")
        if positions is None:
            positions = torch.arange(seen, seen + length, device=given.device)[None]
        whole = mask is None or bool(mask[:, -length:].all())
        places = torch.arange(batch, device=given.device)
        self._tokens = {
            "rows": places.repeat_interleave(length),
            "real": places.new_ones(batch * length).bool() if whole else mask[:, -length:].reshape(-1).bool(),
            "positions": positions.expand(batch, length).reshape(-1),
        }
        self._groups = [(name, _tokens_of(names, name, length, places)) for name in dict.fromkeys(names)]
        if self._counts is not None:
            for name, where in self._groups:
                self._counts.tokens[name] += int(self._tokens["real"][where].sum())

    def at(self, layer: int) -> Any:
        """The hook of one layer's router."""
        first, second, third = self._moe.family.order

        def hook(router: Any, _: Any, told: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
            logits, weights, indices = told[first], told[second], told[third]
            weights, indices = self._routed(layer, router, logits, weights, indices)
            placed: list[Any] = [None, None, None]
            placed[first], placed[second], placed[third] = logits, weights, indices
            return tuple(placed)

        return hook

    def _routed(self, layer: int, router: Any, logits: Any, weights: Any, indices: Any) -> tuple[Any, Any]:
        if len(logits) != len(self._tokens["rows"]):
            raise RoutingError(
                f"its router was given {len(logits)} tokens of {len(self._tokens['rows'])}",
                where=f"layer {layer} of {self._moe.family.name}",
                remedy="run the whole batch in one pass",
            )
        found: list[tuple[Any, Any, Any]] = []
        for name, where in self._groups:
            plan = self._plans[name][layer]
            own = weights[where], indices[where]
            if plan is not None:
                tokens = {key: value[where] for key, value in self._tokens.items()}
                view = RouterView(
                    layer, logits[where], *own, self._normalises(router), int(router.top_k), self._moe.family.name,
                    self._phase, k=plan.k, forbidden=plan.forbidden, scale=plan.scale, _router=router,
                    _family=self._moe.family, **tokens,
                )  # fmt: skip
                own = plan.decide(view)
            if self._counts is not None:
                used = (own[0] != 0) & self._tokens["real"][where][:, None]
                self._counts.add(name, layer, int(router.num_experts), own[1], used)
            found.append((where, *own))
        return found[0][1:] if len(found) == 1 else _merged(found, len(logits))

    def _normalises(self, router: Any) -> bool:
        always = self._moe.family.normalises
        return bool(router.norm_topk_prob) if always is None else always


def _tokens_of(names: Sequence[str], name: str, length: int, places: Any) -> Any:
    """Which tokens belong to a path: a slice where its rows stand together, else their numbers."""
    rows = [row for row, one in enumerate(names) if one == name]
    if rows[-1] - rows[0] + 1 == len(rows):
        return slice(rows[0] * length, (rows[-1] + 1) * length)
    starts = places[rows] * length
    return (starts[:, None] + sys.modules["torch"].arange(length, device=places.device)).reshape(-1)


def _merged(found: Sequence[tuple[Any, Any, Any]], tokens: int) -> tuple[Any, Any]:
    """One choice [tokens, most k] of several; who has fewer experts gets weight 0 and the first of its own, which no
    kernel stumbles over and which loads no further expert."""
    most = max(weights.shape[-1] for _, weights, _ in found)
    all_weights = found[0][1].new_zeros(tokens, most)
    all_indices = found[0][2].new_zeros(tokens, most)
    for where, weights, indices in found:
        width = weights.shape[-1]
        all_weights[where, :width] = weights
        all_indices[where, :width] = indices
        if width < most:
            all_indices[where, width:] = indices[:, :1]
    return all_weights, all_indices


@contextmanager
def routing(
    moe: Moe, paths: Mapping[str, Policy], rows: Sequence[str] = (), counts: Counts | None = None
) -> Iterator[Routing]:
    """Within it every pass of the model is routed by the policies of its `rows`; after it, also after an exception, none is.

    Raises RequestError for a policy that the model cannot follow, before anything is installed, and where the model is
    controlled already.
    """
    if moe.busy:
        raise RequestError(
            "the model's routing is controlled already", remedy="give all policies as paths of one `routing`"
        )
    hooks = Routing(moe, paths, counts)
    hooks.rows = rows
    with ExitStack() as stack:
        moe.busy = True
        stack.callback(setattr, moe, "busy", False)
        stack.callback(moe.model.register_forward_pre_hook(hooks.before, with_kwargs=True).remove)
        for layer, router in moe.routers.items():
            stack.callback(router.register_forward_hook(hooks.at(layer)).remove)
        yield hooks


class _Recomputed(RouterPolicy):
    """Recomputes the model's choice and says where it is another."""

    def __init__(self) -> None:
        self.layers: list[int] = []

    def choose(self, view: RouterView, logits: Any) -> tuple[Any, Any]:
        weights, indices = view.top(logits)
        if not (weights.equal(view.weights) and indices.equal(view.indices)):
            raise RoutingError(
                "its router chooses otherwise than its family",
                where=f"layer {view.layer} of {view.family}",
                remedy=f"use a release of transformers for which the check passes (tried with 5.19), not {_transformers()}",
            )
        self.layers.append(view.layer)
        return weights, indices


class _Other(RouterPolicy):
    """Whatever the model chooses, the experts beside them, and with half their weights."""

    def __init__(self, experts: int) -> None:
        self._experts = experts

    def choose(self, view: RouterView, logits: Any) -> tuple[Any, Any]:
        return view.weights * 0.5, (view.indices + 1) % self._experts


def _found(model: Any) -> Moe:
    """The model's routers, by layer. Raises RoutingError where there are none that are known."""
    remedy = f"families whose routing is known: {', '.join(one.name for one in FAMILIES.values())}, of transformers 5.x"
    where = f"a model of {type(model).__name__}, transformers {_transformers()}"
    routers = {
        name: module
        for name, module in model.named_modules()
        if type(module).__name__ in FAMILIES or re.search(r"Top[kK]Router$", type(module).__name__)
    }
    kinds = {type(router).__name__ for router in routers.values()}
    if not routers:
        raise RoutingError("it has no router of experts that is known", where=where, remedy=remedy)
    if len(kinds) > 1 or not kinds <= set(FAMILIES):
        raise RoutingError(
            f"its routers {', '.join(sorted(kinds))} are not of one known family", where=where, remedy=remedy
        )
    if model.training:
        raise RoutingError(
            "it is being trained, and may choose with noise", where=where, remedy="call its eval() first"
        )
    layers = {int(number[0]) if (number := re.findall(r"\d+", name)) else 0: router for name, router in routers.items()}
    if len(layers) != len(routers) or len({(one.num_experts, one.top_k) for one in routers.values()}) > 1:
        raise RoutingError("its layers have several routers, or unequal ones", where=where, remedy=remedy)
    return Moe(model, FAMILIES[kinds.pop()], layers)


def _transformers() -> str:
    return str(getattr(sys.modules.get("transformers"), "__version__", "that is not loaded"))


def check(model: Any) -> Moe:
    """The identity test at load: a model of a known family, whose choice of experts is recomputed bit for bit inside the
    hooks, gives the same logits with them as without, and other logits where other experts are chosen.

    Raises RoutingError where any of that fails, or where the family is not known.
    """
    torch = sys.modules["torch"]
    moe = _found(model)
    vocabulary = int(model.config.get_text_config().vocab_size)
    device = model.get_input_embeddings().weight.device
    tokens = (torch.arange(24, device=device) * 7919 + 11).reshape(2, 12) % vocabulary
    with torch.no_grad():
        plain = model(input_ids=tokens).logits
        recomputed = _Recomputed()
        with routing(moe, {"all": (recomputed,)}):
            same = model(input_ids=tokens).logits
        with routing(moe, {"all": (_Other(moe.experts),)}):
            other = model(input_ids=tokens).logits
    where = f"a model of {moe.family.name}"
    if recomputed.layers != list(moe.routers):
        raise RoutingError(
            f"of its layers {list(moe.routers)} only {recomputed.layers} asked their router", where=where,
            remedy="load it without fused kernels that choose experts by themselves",
        )  # fmt: skip
    if not same.equal(plain) or other.equal(plain):
        what = (
            "the same choice of experts gives other logits" if not same.equal(plain) else "no other choice is followed"
        )
        raise RoutingError(what, where=where, remedy="load it without fused kernels, on one device")
    return moe
