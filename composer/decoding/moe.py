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
    """A model whose routing can be controlled: `check` makes it. By layer: `routers`, the modules that choose experts, and
    `banks`, those that compute them."""

    model: Any
    family: Family
    routers: Mapping[int, Any]
    banks: Mapping[int, Any]

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
    """A path, which tokens are its own (a slice, or their numbers), and the row of the batch of each."""

    path: str
    where: Any
    rows: Any


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
        # Of the shape of a batch, which stays from one token to the next:
        self._batch: tuple[Any, ...] = ()
        self._groups: list[_Group] = []
        self._pairs: dict[tuple[int, ...], tuple[Any, Any]] = {}
        # Of one pass; the lists are by group:
        self._tokens = 0
        self._real: list[Any] = []
        self._positions: list[Any] = []
        self._made: dict[int, list[tuple[Any, Any]]] = {}
        self._unequal: set[int] = set()
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
        batch_of = names, length, given.device
        if batch_of != self._batch:
            self._batch, self._groups, self._pairs = batch_of, _grouped(names, length, given.device), {}
        self._tokens = batch * length
        real = given.new_ones(self._tokens, dtype=torch.bool) if mask is None else mask[:, -length:].reshape(-1).bool()
        positions = positions.expand(batch, length).reshape(-1)
        self._real = [real[group.where] for group in self._groups]
        self._positions = [positions[group.where] for group in self._groups]
        self._made, self._unequal = {}, set()

    def after(self, *_: Any) -> None:
        """After each pass that did not fail: count it."""
        if self._unequal:
            raise RoutingError(
                "its experts were not asked by their module",
                where=f"layer {min(self._unequal)} of {self._moe.family.name}",
                remedy="load it without fused kernels",
            )
        if self._counts is not None:
            names = [group.path for group in self._groups]
            self._counts.add(names, self._real, self._moe.experts, self._made)

    def at(self, layer: int) -> Any:
        """The hook of one layer's router."""
        first, second, third = self._moe.family.order

        def hook(router: Any, _: Any, told: tuple[Any, Any, Any]) -> tuple[Any, Any, Any] | None:
            logits, weights, indices = told[first], told[second], told[third]
            self._whole(len(logits), layer, "router")
            self._made[layer] = found = [
                self._chosen(number, layer, router, logits, weights, indices) for number in range(len(self._groups))
            ]
            if len({one.shape[-1] for _, one in found}) > 1:
                self._unequal.add(layer)  # what the router says is of no account: `asked` says it
                return None
            own = found[0] if len(found) == 1 else _merged(self._groups, found, self._tokens)
            if own[0] is weights and own[1] is indices:
                return None  # as it was
            placed: list[Any] = [None, None, None]
            placed[first], placed[second], placed[third] = logits, *own
            return tuple(placed)

        return hook

    def asked(self, layer: int) -> Any:
        """The hook before one layer's experts. Where paths choose unequal numbers of them, each pair of a token and an
        expert is handed over as if it were a token with one expert, of weight 1, so that nobody's row is filled up."""
        torch = sys.modules["torch"]

        def hook(_: Any, given: tuple[Any, ...]) -> tuple[Any, Any, Any] | None:
            if layer not in self._unequal:
                return None
            hidden, found = given[0], self._made[layer]
            self._whole(len(hidden), layer, "experts")
            widths = tuple(indices.shape[-1] for _, indices in found)
            if widths not in self._pairs:
                tokens = torch.arange(self._tokens, device=hidden.device)
                own = [
                    tokens[group.where].repeat_interleave(width)
                    for group, width in zip(self._groups, widths, strict=True)
                ]
                pairs = torch.cat(own)
                self._pairs[widths] = pairs, hidden.new_ones(len(pairs), 1)
            pairs, ones = self._pairs[widths]
            return (
                hidden.index_select(0, pairs),
                torch.cat([indices.reshape(-1) for _, indices in found])[:, None],
                ones,
            )

        return hook

    def answered(self, layer: int) -> Any:
        """The hook after one layer's experts: what the pairs came to is weighed and summed for each token, in the order and
        the precision of transformers' own kernels."""
        torch = sys.modules["torch"]

        def hook(_: Any, given: tuple[Any, ...], told: Any) -> Any:
            if layer not in self._unequal:
                return None
            self._unequal.discard(layer)
            found, at = self._made[layer], 0
            parts: list[Any] = []
            for weights, _indices in found:
                count, width = weights.shape
                own = told[at : at + count * width].view(count, width, -1) * weights[..., None]
                parts.append((own[:, 0] if width == 1 else own.sum(1)).to(told.dtype))
                at += count * width
            if _in_order(self._groups):
                return torch.cat(parts)
            placed = told.new_empty(self._tokens, told.shape[-1])
            for group, part in zip(self._groups, parts, strict=True):
                placed[group.where] = part
            return placed

        return hook

    def _whole(self, tokens: int, layer: int, what: str) -> None:
        if tokens != self._tokens:
            raise RoutingError(
                f"its {what} was given {tokens} tokens of {self._tokens}",
                where=f"layer {layer} of {self._moe.family.name}",
                remedy="run the whole batch in one pass",
            )

    def _chosen(self, number: int, layer: int, router: Any, logits: Any, weights: Any, indices: Any) -> tuple[Any, Any]:
        """Weights and indices for the tokens of a group."""
        group = self._groups[number]
        where, plan = group.where, self._plans[group.path][layer]
        if len(self._groups) > 1:
            weights, indices = weights[where], indices[where]
        if plan is None:
            return weights, indices
        family = self._moe.family
        view = RouterView(
            layer, logits if len(self._groups) == 1 else logits[where], weights, indices, self._normalises(router),
            int(router.top_k), family.name, self._phase, self._positions[number], group.rows, self._real[number],
            plan.k, plan.forbidden, plan.scale, router, family,
        )  # fmt: skip
        return plan.decide(view)

    def _normalises(self, router: Any) -> bool:
        always = self._moe.family.normalises
        return bool(router.norm_topk_prob) if always is None else always


def _grouped(names: Sequence[str], length: int, device: Any) -> list[_Group]:
    """Whose each of a batch's tokens is; a path whose rows stand together has a slice of them."""
    torch = sys.modules["torch"]
    found: list[_Group] = []
    of = torch.arange(len(names), device=device).repeat_interleave(length)
    for name in dict.fromkeys(names):
        rows = [row for row, one in enumerate(names) if one == name]
        where: Any = slice(rows[0] * length, (rows[-1] + 1) * length)
        if rows[-1] - rows[0] + 1 != len(rows):
            starts = torch.tensor(rows, device=device)[:, None] * length
            where = (starts + torch.arange(length, device=device)).reshape(-1)
        found.append(_Group(name, where, of[where]))
    return found


def _in_order(groups: Sequence[_Group]) -> bool:
    """Whether the groups' tokens, one group after the other, are the batch's."""
    return all(isinstance(group.where, slice) for group in groups)  # they begin in the order of their first rows


def _merged(groups: Sequence[_Group], found: Sequence[tuple[Any, Any]], tokens: int) -> tuple[Any, Any]:
    """One choice [tokens, k] of several, all of one k."""
    torch = sys.modules["torch"]
    if _in_order(groups):
        return torch.cat([weights for weights, _ in found]), torch.cat([indices for _, indices in found])
    k = found[0][0].shape[-1]
    all_weights, all_indices = found[0][0].new_empty(tokens, k), found[0][1].new_empty(tokens, k)
    for group, (weights, indices) in zip(groups, found, strict=True):
        all_weights[group.where], all_indices[group.where] = weights, indices
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
        if len(paths) > 1:
            for layer, bank in moe.banks.items():
                stack.callback(bank.register_forward_pre_hook(hooks.asked(layer)).remove)
                stack.callback(bank.register_forward_hook(hooks.answered(layer)).remove)
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
    named = {int(number[0]) if (number := re.findall(r"\d+", name)) else 0: name for name in routers}
    if len(named) != len(routers) or len({(one.num_experts, one.top_k) for one in routers.values()}) > 1:
        raise RoutingError("its layers have several routers, or unequal ones", where=where, remedy=remedy)
    blocks = {layer: model.get_submodule(name.rpartition(".")[0]) for layer, name in named.items()}
    if not all(hasattr(block, "experts") for block in blocks.values()):
        raise RoutingError("its experts are no module beside their router", where=where, remedy=remedy)
    banks = {layer: block.experts for layer, block in blocks.items()}
    return Moe(model, FAMILIES[kinds.pop()], {layer: routers[name] for layer, name in named.items()}, banks)


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
