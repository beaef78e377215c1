"""Checks of `composer.engines.vllm_lora`, for the interpreter that has vLLM; prints a JSON object of what failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from composer.engines.vllm_lora import Adapters, Group, grouped, install

RANK, IN, WIDTHS, PLACES = 4, 6, (5, 3), 3


def stacked(seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights of three adapters for a layer of two parts; the last one leaves it as it is."""
    drawn = torch.Generator().manual_seed(seed)
    down = [torch.randn(PLACES, 1, RANK, IN, generator=drawn) for _ in WIDTHS]
    up = [torch.randn(PLACES, 1, width, RANK, generator=drawn) for width in WIDTHS]
    for part in up:
        part[2] = 0
    return down, up


def naive(
    x: torch.Tensor, down: Sequence[torch.Tensor], up: Sequence[torch.Tensor], places: Sequence[int]
) -> torch.Tensor:
    """Row by row and part by part."""
    rows = [
        torch.cat([up[part][place, 0] @ (down[part][place, 0] @ row) for part in range(len(WIDTHS))])
        if place >= 0
        else torch.zeros(sum(WIDTHS))
        for row, place in zip(x, places, strict=True)
    ]
    return torch.stack(rows)


def sums() -> None:
    """Rows that stand together, take turns, or lie anywhere, with and without an adapter, of one that changes nothing."""
    down, up = stacked(0)
    for places in ([0] * 4, [1, -1, 1, -1], [-1, 0, 1, 0, 0, 1], [2, 0, 2, 1], [-1, -1], [0]):
        x, before = torch.randn(len(places), IN), torch.randn(len(places), sum(WIDTHS))
        y = before.clone()
        Adapters().add(grouped(places, [7, 8, 9]), y, x, down, up)
        assert torch.allclose(y, before + naive(x, down, up, places), atol=1e-5), places
        for row, place in enumerate(places):
            assert place in (0, 1) or torch.equal(y[row], before[row]), "a row without an adapter has changed"


def halves() -> None:
    """Half precision is widened, and narrower logits are cut."""
    down, up = stacked(1)
    x, y = torch.randn(4, IN).bfloat16(), torch.zeros(4, sum(WIDTHS) - 2).bfloat16()
    Adapters().add(grouped([0, -1, 1, 0], [1, 2, 3]), y, x, down, up)
    wanted = naive(x.float(), down, up, [0, -1, 1, 0])[:, :-2]
    assert torch.allclose(y.float(), wanted, rtol=0.01, atol=0.01)


def groups() -> None:
    """Evenly spaced rows are slices; a place without a number is none."""
    found = grouped([0, 1, 0, 1, 2], [5, 6, None])
    assert found == [Group(5, 0, slice(0, 3, 2)), Group(6, 1, slice(1, 4, 2))], found
    other = grouped([0, 0, 1, 0], [5, 6])[0].rows
    assert isinstance(other, torch.Tensor) and other.tolist() == [0, 1, 3]


def forgets() -> None:
    """Other weights under the same number count once they are told of."""
    adapters, (down, up) = Adapters(), stacked(2)
    x, own = torch.randn(2, IN), grouped([0, 0], [5])

    def made() -> torch.Tensor:
        y = torch.zeros(2, sum(WIDTHS))
        adapters.add(own, y, x, down, up)
        return y

    first = made()
    for part in up:
        part[0] *= 2
    assert torch.equal(made(), first)
    adapters.forget(5)
    assert torch.allclose(made(), 2 * first)


def installed() -> None:
    """vLLM's own classes still have what is replaced, and writing an adapter into its place forgets what was made."""
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    before = LoRAModelManager.activate_adapter, PunicaWrapperCPU.add_lora_linear
    assert install()
    assert LoRAModelManager.activate_adapter is not before[0]
    assert PunicaWrapperCPU.add_lora_linear is not before[1]


def main() -> None:
    """Run all."""
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    for check in (sums, halves, groups, forgets, installed):
        try:
            check()
            found[check.__name__] = None
        except Exception as why:  # told to the test, which fails
            found[check.__name__] = repr(why)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
