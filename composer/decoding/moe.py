"""Control over the routing inside one mixture-of-experts model of transformers: hooks that see each layer's choice of
experts and may replace it, for each row of a batch by another policy (METHODS K.1).

The policies are in `composer.decoding.policies`. Nothing is imported but the standard library and this package: the model
brings torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from composer.decoding.families import FAMILIES, Family
from composer.decoding.plans import known, plan_of
from composer.decoding.policies import Counts, Phase, Policy, RouterPolicy, RouterView
from composer.errors import RequestError, RoutingError


@dataclass(frozen=True, slots=True)
class Moe:
    """A model whose routing can be controlled: `check` makes it. `routers` are by layer."""

    model: Any
    family: Family
    routers: Mapping[int, Any]

    @property
    def default_k(self) -> int:
        """How many experts the model itself chooses."""
        return int(next(iter(self.routers.values())).top_k)

    @property
    def experts(self) -> int:
        """How many experts a layer has."""
        return int(next(iter(self.routers.values())).num_experts)


@dataclass(frozen=True, slots=True)
class _Group:
    """A path and which tokens are its own: a slice, or their numbers."""

    path: str
    where: Any


class Routing:
    """The hooks while they are installed. `rows` names the path of each row of the batch; it may be set anew between two
    forward passes. One path alone is everybody's."""

    def __init__(self, moe: Moe, paths: Mapping[str, Policy], counts: Counts | None) -> None:
        self.rows: Sequence[str] = ()
        self._moe, self._counts = moe, counts
        for policy in paths.values():
            known(moe.family, moe.routers, moe.experts, policy)
        self._plans = {
            name: {layer: plan_of(moe.family, router, policy, layer) for layer, router in moe.routers.items()}
            for name, policy in paths.items()
        }
        self._groups: list[_Group] = []
        self._batch: tuple[Any, ...] = ()
        self._rows: Any = None
        self._paths: Any = None
        self._real: Any = None
        self._positions: Any = None
        self._made: dict[int, tuple[Any, Any]] = {}
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
        batch_of = tuple(names), length, given.device
        if batch_of != self._batch:  # from one token to the next it is the same
            self._batch, self._groups = batch_of, _grouped(names, length, given.device)
            self._rows = torch.arange(batch, device=given.device).repeat_interleave(length)
            self._paths = self._rows.new_empty(len(self._rows))
            for group in self._groups:
                self._paths[group.where] = [*self._plans].index(group.path)
        self._real = (
            self._rows.new_ones(len(self._rows)).bool() if mask is None else mask[:, -length:].reshape(-1).bool()
        )
        self._positions = positions.expand(batch, length).reshape(-1)
        self._made = {}

    def after(self, *_: Any) -> None:
        """After each pass that did not fail: count it."""
        if self._counts is not None:
            self._counts.add([*self._plans], self._paths, self._real, self._moe.experts, self._made)

    def at(self, layer: int) -> Any:
        """The hook of one layer's router."""
        first, second, third = self._moe.family.order

        def hook(router: Any, _: Any, told: tuple[Any, Any, Any]) -> tuple[Any, Any, Any] | None:
            logits, weights, indices = told[first], told[second], told[third]
            if len(logits) != len(self._rows):
                raise RoutingError(
                    f"its router was given {len(logits)} tokens of {len(self._rows)}",
                    where=f"layer {layer} of {self._moe.family.name}",
                    remedy="run the whole batch in one pass",
                )
            found = [
                (group.where, *self._chosen(group, layer, router, logits, weights, indices)) for group in self._groups
            ]
            self._made[layer] = own = found[0][1:] if len(found) == 1 else _merged(found, len(logits))
            if own[0] is weights and own[1] is indices:
                return None  # as it was
            placed: list[Any] = [None, None, None]
            placed[first], placed[second], placed[third] = logits, *own
            return tuple(placed)

        return hook

    def _chosen(
        self, group: _Group, layer: int, router: Any, logits: Any, weights: Any, indices: Any
    ) -> tuple[Any, Any]:
        """Weights and indices for the tokens of a path."""
        where, plan = group.where, self._plans[group.path][layer]
        if len(self._groups) > 1:
            logits, weights, indices = logits[where], weights[where], indices[where]
        if plan is None:
            return weights, indices
        family = self._moe.family
        view = RouterView(
            layer, logits, weights, indices, self._normalises(router), int(router.top_k), family.name, self._phase,
            self._positions[where], self._rows[where], self._real[where], plan.k, plan.forbidden, plan.scale, router, family,
        )  # fmt: skip
        return plan.decide(view)

    def _normalises(self, router: Any) -> bool:
        always = self._moe.family.normalises
        return bool(router.norm_topk_prob) if always is None else always


def _grouped(names: Sequence[str], length: int, device: Any) -> list[_Group]:
    """Whose each of a batch's tokens is; a path whose rows stand together has a slice of them."""
    torch = sys.modules["torch"]
    found: list[_Group] = []
    for name in dict.fromkeys(names):
        rows = [row for row, one in enumerate(names) if one == name]
        where: Any = slice(rows[0] * length, (rows[-1] + 1) * length)
        if rows[-1] - rows[0] + 1 != len(rows):
            starts = torch.tensor(rows, device=device)[:, None] * length
            where = (starts + torch.arange(length, device=device)).reshape(-1)
        found.append(_Group(name, where))
    return found


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


_controlled: WeakSet[Any] = WeakSet()
"""Models that have our hooks: two sets of them would each see what the other made."""


@contextmanager
def routing(
    moe: Moe, paths: Mapping[str, Policy], rows: Sequence[str] = (), counts: Counts | None = None
) -> Iterator[Routing]:
    """Within it every pass of the model is routed by the policies of its `rows`; after it, also after an exception, none is.

    Raises RequestError for a policy that the model cannot follow, before anything is installed, and where the model is
    controlled already.
    """
    if moe.model in _controlled:
        raise RequestError(
            "the model's routing is controlled already", remedy="give all policies as paths of one `routing`"
        )
    hooks = Routing(moe, paths, counts)
    hooks.rows = rows
    with ExitStack() as stack:
        _controlled.add(moe.model)
        stack.callback(_controlled.discard, moe.model)
        stack.callback(moe.model.register_forward_pre_hook(hooks.before, with_kwargs=True).remove)
        stack.callback(moe.model.register_forward_hook(hooks.after).remove)
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
