"""vLLM's low-rank adapters on a CPU, computed per adapter: its own way there copies the weights of an adapter for every row.

With adapters most of a step went into that, also for rows without one (docs/vllm.md has figures). Here the rows of an adapter
are multiplied with its weights once, those of all parts of a layer (queries, keys and values; gate and up) in one go and in
float32, and other rows are left alone. Loaded by `vllm_loop.py` in the interpreter that has vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

Rows: TypeAlias = slice | torch.Tensor
"""Which rows of a batch: a slice where they are evenly apart, else their numbers."""
Parts: TypeAlias = Sequence[torch.Tensor]
"""A tensor per part of a layer: [adapters, 1, rank, in] on the way down, [adapters, 1, width, rank] on the way up."""


@dataclass(frozen=True, slots=True)
class Group:
    """An adapter in a batch: its number, its place in vLLM's tensors, and its rows."""

    number: int
    place: int
    rows: Rows


def grouped(places: Sequence[int], numbers: Sequence[int | None]) -> list[Group]:
    """The adapters of a batch. `places` are theirs by row, below 0 where there is none, and `numbers` by place."""
    rows: dict[int, list[int]] = {}
    for row, place in enumerate(places):
        if place >= 0:
            rows.setdefault(place, []).append(row)
    return [Group(number, place, _rows(rows[place])) for place in rows if (number := numbers[place]) is not None]


def _rows(own: Sequence[int]) -> Rows:
    step = own[1] - own[0] if len(own) > 1 else 1  # a strong and a weak row of each answer take turns
    evenly = range(own[0], own[-1] + 1, step)
    return slice(own[0], own[-1] + 1, step) if list(evenly) == list(own) else torch.tensor(own)


@dataclass(slots=True)
class Adapters:
    """The weights of adapters as they are multiplied, made when a layer first sees them."""

    _made: dict[int, dict[int, tuple[torch.Tensor, torch.Tensor] | None]] = field(default_factory=dict)

    def forget(self, number: int) -> None:
        """Let go of what was made of an adapter: other weights may come under its number."""
        self._made.pop(number, None)

    def add(self, groups: Sequence[Group], y: torch.Tensor, x: torch.Tensor, down: Parts, up: Parts) -> None:
        """y [rows, all widths] += what the rows' adapters make of x [rows, in]. `down` tells layers apart, by where it lies
        in memory; y may be narrower than all widths, as logits are that lack their padding."""
        for group in groups:
            own = self._made.setdefault(group.number, {})
            layer = down[0].data_ptr()
            if layer not in own:
                own[layer] = fused(down, up, group.place)
            weights = own[layer]
            if weights is None:
                continue
            made = (x[group.rows].float() @ weights[0] @ weights[1])[:, : y.shape[1]]
            if isinstance(group.rows, slice):
                y[group.rows] += made
            else:
                y.index_add_(0, group.rows, made.to(y.dtype))


def fused(down: Parts, up: Parts, place: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The weights of an adapter for all parts of a layer, in float32: down [in, all ranks], and up [all ranks, all widths],
    which is 0 from one part to another. None for a layer that it leaves as it is."""
    if not any(part[place].any() for part in up):
        return None
    return (
        torch.cat([part[place, 0] for part in down]).float().t().contiguous(),
        torch.block_diag(*(part[place, 0].float() for part in up)).t().contiguous(),
    )


_REPLACED = ("update_metadata", "add_lora_linear", "add_lora_logits")


def install() -> bool:
    """Have vLLM compute them so; whether it does: not where this vLLM has it in another form."""
    try:
        from vllm.lora.model_manager import LoRAModelManager as Manager  # noqa: PLC0415 not every vLLM has these
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU as Wrapper  # noqa: PLC0415
    except ImportError:
        return False
    known = all(hasattr(Wrapper, name) for name in (*_REPLACED, "token_lora_indices", "sampler_indices"))
    if not known or not hasattr(Manager, "activate_adapter"):
        return False
    adapters, begin, activate = Adapters(), Wrapper.update_metadata, Manager.activate_adapter

    def update_metadata(self: Any, mapping: Any, lora_index_to_id: Sequence[int | None], *args: Any, **kw: Any) -> None:
        begin(self, mapping, lora_index_to_id, *args, **kw)
        self.by_token = grouped(self.token_lora_indices.tolist(), lora_index_to_id)
        self.by_logits = grouped(self.sampler_indices.tolist(), lora_index_to_id)

    def add_lora_linear(
        self: Any, y: torch.Tensor, x: torch.Tensor, down: Parts, up: Parts, *_: Any, **_kw: Any
    ) -> None:
        # `scale`, which follows, is 1 in all callers: an adapter's own is in its weights
        adapters.add(self.by_token, y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), down, up)

    def add_lora_logits(
        self: Any, y: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, *_: Any, **_kw: Any
    ) -> None:
        adapters.add(self.by_logits, y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1]), (down,), (up,))

    def activate_adapter(self: Any, lora_id: int) -> bool:
        written: bool = activate(self, lora_id)
        if written:
            adapters.forget(lora_id)
        return written

    for name, ours in zip(_REPLACED, (update_metadata, add_lora_linear, add_lora_logits), strict=True):
        setattr(Wrapper, name, ours)
    Wrapper.by_token = Wrapper.by_logits = ()  # until the first batch
    Manager.activate_adapter = activate_adapter
    return True
