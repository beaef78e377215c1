"""Policies for the routing inside one mixture-of-experts model (METHODS K.1, K.2): what a policy sees of a layer, the parts
it is made of, and the ways of choosing experts that were published.

A policy is a tuple of parts, read from left to right: `ExpertMask`, `Bias`, `Scale` and `KOverride` say what holds for an
expert or a layer, a `RouterPolicy` edits logits or chooses. They count in one order whatever order they stand in: edited
logits, plus bias, forbidden experts to -inf, the family's scores, the choice (the last policy that makes one), scale,
normalised where the family does, forced experts last. The empty policy is the model's own routing.

Tensors are torch's, which is not imported here.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from composer.decoding.families import Family
from composer.errors import RequestError

Phase = Literal["prefill", "decode"]
Place = tuple[int, int]
"""A layer (as the model counts them) and an expert, both from 0."""


@dataclass(frozen=True, slots=True)
class RouterView:
    """What a policy sees of one layer: its tokens [tokens], and what the model would do with them.

    `logits` [tokens, experts] are the router's, `weights` and `indices` [tokens, default_k] its choice. `rows` says which
    row of the batch each token belongs to, `real` which are no padding, `positions` where it stands by `position_ids`
    (without them: by the cache). `k` is how many to choose, `forbidden` (bool [experts]) and `scale` ([experts]) what masks
    and scales say, None: nothing.
    """

    layer: int
    logits: Any
    weights: Any
    indices: Any
    norm_topk: bool
    default_k: int
    family: str
    phase: Phase
    positions: Any
    rows: Any
    real: Any
    k: int
    forbidden: Any = field(repr=False)
    scale: Any = field(repr=False)
    _router: Any = field(repr=False)
    _family: Family = field(repr=False)

    def ranking(self, logits: Any) -> Any:
        """What the family sorts experts by [tokens, experts], higher first; -inf: cannot be chosen."""
        return self._family.rule.ranking(self._router, logits, self.forbidden)

    def raw(self, logits: Any) -> Any:
        """Each expert's weight among all of them [tokens, experts], not normalised over a choice."""
        return self._family.rule.raw(self._router, logits)

    def weigh(self, logits: Any, indices: Any, used: Any = None, normalise: bool | None = None) -> Any:
        """The weights of a choice [tokens, k]: scaled, then normalised (None: where the family does), 0 where not `used`."""
        sums = self.norm_topk if normalise is None else normalise
        found = self._family.rule.weigh(self._router, logits, indices, used, self.scale, sums)
        return found.to(self.weights.dtype)

    def top(self, logits: Any) -> tuple[Any, Any]:
        """What the family does: weights and indices of the `k` best."""
        indices = self.ranking(logits).topk(self.k, dim=-1, sorted=self._family.rule.ordered)[1]
        return self.weigh(logits, indices), indices


class RouterPolicy:
    """One's own routing. Both methods see only the tokens of the rows that have this policy."""

    def edit_logits(self, view: RouterView) -> Any:
        """Other logits [tokens, experts]; forbidden experts stay so."""
        return view.logits

    def choose(self, view: RouterView, logits: Any) -> tuple[Any, Any] | None:
        """Weights and indices [tokens, any k]; None leaves it to the others. Fewer experts for a token: weight 0 and any
        index that is valid (its first one costs least). `view.weigh` gives the family's weights."""
        return None

    def least(self, k: int) -> int:
        """How many experts a token must be able to choose from."""
        return k


@dataclass(frozen=True, slots=True)
class ExpertMask:
    """What holds for experts; who is not named is allowed, and a later mask of the policy counts more. A forced expert
    joins those that are chosen, with their mean weight or with the one in `weights`."""

    states: Mapping[Place, Literal["allow", "forbid", "force"]]
    weights: Mapping[Place, float] = field(default_factory=dict[Place, float])

    @classmethod
    def only(cls, layer: int, experts: Sequence[int], of: int) -> ExpertMask:
        """All but these forbidden, `of` there are."""
        return cls({(layer, one): "forbid" for one in range(of) if one not in experts})


@dataclass(frozen=True, slots=True)
class KOverride:
    """How many experts are chosen: everywhere, or by layer (METHODS: dynamic experts search)."""

    k: int | Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Bias:
    """Added to experts' logits."""

    by: Mapping[Place, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiplies experts' weights where they are chosen, before weights are normalised."""

    by: Mapping[Place, float]


Part = RouterPolicy | ExpertMask | KOverride | Bias | Scale
Policy = tuple[Part, ...]


class Counts:
    """How many tokens each expert has served, by path and layer. Padding is none, nor is an expert of weight 0."""

    def __init__(self) -> None:
        self._tokens: Counter[str] = Counter()
        self._tables: dict[str, dict[int, Any]] = {}
        self._pending: list[_Pass] = []

    @property
    def tokens(self) -> Mapping[str, int]:
        """How many tokens each path has had."""
        self._fold()
        return self._tokens

    def experts(self, path: str) -> dict[int, list[int]]:
        """By layer, how many tokens each expert served."""
        self._fold()
        return {layer: table.tolist() for layer, table in self._tables.get(path, {}).items()}

    def per_token(self, path: str) -> float:
        """Expert activations per token, all layers together."""
        return sum(map(sum, self.experts(path).values())) / max(1, self.tokens[path])

    def add(
        self,
        names: Sequence[str],
        real: Sequence[Any],
        experts: int,
        made: Mapping[int, Sequence[tuple[Any, Any]]],
    ) -> None:
        """Note a pass: the `names` of its paths, for each path which of its tokens are `real` [tokens], and by layer, of so
        many `experts`, for each path the weights and indices [tokens, k] its tokens were given."""
        self._pending.append((names, real, experts, made))
        if len(self._pending) >= _PENDING:
            self._fold()

    def _fold(self) -> None:
        """Count what is pending. Many passes and layers at once: one by one would cost as much as a small model's layer."""
        torch = sys.modules["torch"] if self._pending else None
        shared: dict[str, list[Any]] = {}
        same: dict[tuple[str, int, int], dict[int, list[tuple[Any, Any, Any]]]] = {}
        for names, real, experts, made in self._pending:
            for place, name in enumerate(names):
                shared.setdefault(name, []).append(real[place])
                for layer, chosen in made.items():
                    weights, indices = chosen[place]
                    layers = same.setdefault((name, experts, indices.shape[-1]), {})
                    layers.setdefault(layer, []).append((real[place], weights, indices))
        self._pending.clear()
        for name, parts in shared.items():
            self._tokens[name] += int(torch.cat(parts).sum())  # type: ignore[union-attr]
        for (name, experts, _), layers in same.items():
            own = self._tables.setdefault(name, {})
            for layer, served in _served(torch, experts, layers).items():
                own[layer] = own[layer] + served if layer in own else served


def _served(torch: Any, experts: int, layers: Mapping[int, Sequence[tuple[Any, Any, Any]]]) -> dict[int, Any]:
    """By layer, how many tokens each expert [experts] served, of (real [tokens], weights and indices [tokens, k])."""
    real, weights, indices = (
        torch.cat([one[place] for parts in layers.values() for one in parts]) for place in range(3)
    )
    sizes = torch.tensor([sum(len(one[0]) for one in parts) for parts in layers.values()], device=indices.device)
    places = torch.arange(len(layers), device=indices.device).repeat_interleave(sizes)[:, None] * experts + indices
    found = places[(weights != 0) & real[:, None]].bincount(minlength=len(layers) * experts)
    return dict(zip(layers, found.view(len(layers), experts), strict=True))


_PENDING = 64  # passes
_Pass = tuple[Sequence[str], Sequence[Any], int, Mapping[int, Sequence[tuple[Any, Any]]]]

WeakWeight = Literal["one", "raw"]
"""The weight of a weak expert: `one`, normalised over itself alone; `raw`, what it has among all experts."""


@dataclass(frozen=True, slots=True)
class RankExpert(RouterPolicy):
    """Only the expert of one rank, from 0: the weak activation of SCMoE (Shi et al. 2024, "Unchosen Experts Can Contribute
    Too"). Rank 2 is the best one that a top-2 model does not choose; the paper's "k = 2" is that rank in its released code,
    which counts from 0. Experts that all tokens share stay on."""

    rank0: int = 2
    weight: WeakWeight = "one"

    def __post_init__(self) -> None:
        if self.rank0 < 0:
            raise RequestError(f"ranks of experts are counted from 0, not {self.rank0}", where="a weak expert")

    def choose(self, view: RouterView, logits: Any) -> tuple[Any, Any]:
        indices = view.ranking(logits).topk(self.rank0 + 1, dim=-1)[1][:, -1:]
        return view.weigh(logits, indices, normalise=self.weight == "one"), indices

    def least(self, k: int) -> int:
        return self.rank0 + 1


@dataclass(frozen=True, slots=True)
class RandomExpert(RouterPolicy):
    """Only one expert, a random one: the control of SCMoE. Which, depends on the seed, the layer and the token's position,
    and on nothing that stands beside it in the batch."""

    seed: int = 0
    weight: WeakWeight = "one"

    def choose(self, view: RouterView, logits: Any) -> tuple[Any, Any]:
        ranking = view.ranking(logits)
        experts = ranking.shape[-1]
        places = view.positions[:, None] * experts + view.positions.new_tensor(range(experts))
        keys = _scattered(places + (self.seed * 1_000_003 + view.layer) * 0x9E3779B97F4A7C1 % 2**61)
        indices = keys.masked_fill(ranking == -math.inf, -1).argmax(-1, keepdim=True)
        return view.weigh(logits, indices, normalise=self.weight == "one"), indices


@dataclass(frozen=True, slots=True)
class TopP(RouterPolicy):
    """The fewest experts whose probabilities sum to more than `p`, with the one that crosses it, and at most `cap` of them
    (None: two more than the model chooses) (Huang et al. 2024, "Harder Tasks Need More Experts": p 0.4, for models trained
    so). Their weights are raw, as published, or normalised where the family does. Where a family's scores are no
    probabilities (DeepSeek-V3), their shares of the sum are."""

    p: float = 0.4
    cap: int | None = None
    weights: Literal["raw", "family"] = "raw"

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1 or (self.cap is not None and self.cap < 1):
            raise RequestError(
                f"p {self.p} lies in [0, 1], and a cap is 1 or more, not {self.cap}", where="top-p routing"
            )

    def choose(self, view: RouterView, logits: Any) -> tuple[Any, Any]:
        ranking = view.ranking(logits)
        most = min(self.cap or view.default_k + 2, ranking.shape[-1])
        best, indices = ranking.topk(most, dim=-1)
        share = view.raw(logits).masked_fill(ranking == -math.inf, 0.0)
        share = (share / share.sum(-1, keepdim=True)).gather(-1, indices)
        used = (share.cumsum(-1) - share <= self.p) & (best > -math.inf)
        indices = indices.where(used, indices[:, :1])  # what is valid and costs no further expert
        return view.weigh(logits, indices, used, normalise=False if self.weights == "raw" else None), indices


def _scattered(numbers: Any) -> Any:
    """Integers [any] to ones that look random, never below 0 (the mixing of splitmix64, on 63 bits)."""
    mask = 2**63 - 1
    numbers = numbers * 0x1E3779B97F4A7C15 & mask
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        numbers = (numbers ^ (numbers >> shift)) * factor & mask
    return numbers ^ (numbers >> 31)
