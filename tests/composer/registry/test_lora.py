"""Adapters as arrays: conversion keeps their numbers, and what several become together is what was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pefts import BASE, HEADS, WIDE, base, peft, read_gguf, tensors

from composer.config import PACKAGED
from composer.errors import ConfigError
from composer.registry.bases import read_base
from composer.registry.lora import (
    Lora,
    Pair,
    combine,
    load_lora,
    lost,
    save_gguf,
    save_peft,
    similarity,
    to_gguf,
    truncate,
    turned,
)

SKILLS = ["arithmetic", "dates", "extraction", "sorting", "units"]


def lora(seed: int = 0, *, rank: int = 4, scale: float = 2.0, layers: tuple[str, ...] = ("a", "b")) -> Lora:
    rng = np.random.default_rng(seed)
    made = {
        name: Pair(rng.normal(size=(rank, 7)).astype("f4"), rng.normal(size=(9, rank)).astype("f4"), scale)
        for name in layers
    }
    return Lora(made, gguf=False, base=BASE)  # fmt: skip


def same(one: Lora, other: Lora, *, within: float = 1e-5) -> None:
    assert one.layers.keys() == other.layers.keys()
    for name, pair in one.layers.items():
        np.testing.assert_allclose(pair.change(), other.layers[name].change(), atol=within)


# Conversion


@pytest.mark.parametrize("skill", SKILLS)
def test_a_packaged_folder_converts_to_the_very_numbers_of_the_packaged_file(
    skill: str, smollm2: Path, tmp_path: Path
) -> None:
    folder = PACKAGED / "adapters" / skill
    made = to_gguf(load_lora(folder), of := _gguf(smollm2))

    save_gguf(made, tmp_path / "made.gguf", of.family)

    ours, theirs = read_gguf(tmp_path / "made.gguf"), read_gguf(folder / f"{skill}.gguf")
    assert ours[1] == theirs[1] and ours[0].keys() == theirs[0].keys()
    assert all((ours[0][name] == theirs[0][name]).all() for name in theirs[0])
    assert load_lora(folder / f"{skill}.gguf").base == "HuggingFaceTB/SmolLM2-135M-Instruct"


def _gguf(path: Path):  # type: ignore[no-untyped-def]
    return read_base(path, "smollm2")


def test_conversion_renames_and_reorders_only_the_outer_side_of_q_and_k(tmp_path: Path) -> None:
    held = tensors(1)

    save_gguf(to_gguf(load_lora(peft(tmp_path / "law", held)), base()), tmp_path / "law.gguf", "llama")

    found, alpha = read_gguf(tmp_path / "law.gguf")
    stem = "base_model.model.model.layers.1"
    assert alpha == 8.0 and len(found) == len(held)
    q = held[f"{stem}.self_attn.q_proj.lora_B.weight"]
    np.testing.assert_array_equal(found["blk.1.attn_q.weight.lora_b"], turned(q, HEADS))
    down = held[f"{stem}.mlp.down_proj.lora_B.weight"]
    np.testing.assert_array_equal(found["blk.1.ffn_down.weight.lora_b"], down)
    np.testing.assert_array_equal(
        found["blk.1.attn_q.weight.lora_a"], held[f"{stem}.self_attn.q_proj.lora_A.weight"]
    )  # fmt: skip


def test_families_that_keep_the_order_of_transformers_are_not_reordered(tmp_path: Path) -> None:
    qwen = base(**{"general.architecture": "qwen2", "qwen2.block_count": 2, "qwen2.attention.head_count": HEADS})
    given = load_lora(peft(tmp_path / "law"))

    made = to_gguf(given, qwen)

    np.testing.assert_array_equal(
        made.layers["blk.0.attn_q.weight"].up, given.layers["model.layers.0.self_attn.q_proj"].up
    )


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"general.architecture": "falcon"}, "may keep its layers in an order of its own"),
        ({"llama.attention.head_count": 3}, "says 3 heads"),
        ({"llama.attention.head_count": 0}, "says 0 heads"),
        ({"llama.block_count": 1}, "changes model.layers.1"),
    ],
)
def test_what_has_no_place_in_the_base_is_refused(tmp_path: Path, metadata: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        to_gguf(load_lora(peft(tmp_path / "law")), base(**metadata))


def test_factors_of_single_layers_survive_conversion(tmp_path: Path) -> None:
    given = load_lora(peft(tmp_path / "law", alpha_pattern={"down_proj": 2}))

    save_gguf(to_gguf(given, base()), tmp_path / "law.gguf", "llama", half=False)

    made = load_lora(tmp_path / "law.gguf")
    np.testing.assert_allclose(
        made.layers["blk.0.ffn_down.weight"].change(),
        given.layers["model.layers.0.mlp.down_proj"].change(),
        rtol=1e-5,
        atol=1e-5,
    )
    assert given.layers["model.layers.0.mlp.down_proj"].scale == 0.5


def test_reordered_rows_give_the_same_attention_in_the_rotation_of_llama_cpp() -> None:
    rng = np.random.default_rng(0)
    width = WIDE // HEADS
    query, key = rng.normal(size=(2, WIDE, 3))  # from three inputs
    rows, angles = rng.normal(size=(5, 3)), rng.normal(size=(5, width // 2))

    def halves(vectors: np.ndarray) -> np.ndarray:  # transformers turns (i, i + half)
        a, b = np.split(vectors.reshape(5, HEADS, width), 2, axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def pairs(vectors: np.ndarray) -> np.ndarray:  # llama.cpp turns (2 i, 2 i + 1)
        a, b = np.moveaxis(vectors.reshape(5, HEADS, width // 2, 2), -1, 0)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(5, HEADS, width)

    ours = np.einsum("ihd,jhd->hij", halves(rows @ query.T), halves(rows @ key.T))
    q, k = turned(query, HEADS), turned(key, HEADS)
    theirs = np.einsum("ihd,jhd->hij", pairs(rows @ q.T), pairs(rows @ k.T))

    np.testing.assert_allclose(ours, theirs, atol=1e-9)


# Composition (METHODS I.9)


def test_a_sum_is_the_weighted_sum_of_what_the_adapters_do_and_its_ranks_add_up() -> None:
    one, two = lora(1, rank=4, scale=2.0), lora(2, rank=3, scale=0.5)

    made = combine([one, two], [0.75, -1.5])

    for name, pair in made.layers.items():
        wanted = 0.75 * one.layers[name].change() - 1.5 * two.layers[name].change()
        np.testing.assert_allclose(pair.change(), wanted, atol=1e-5)
        assert pair.rank == 7


def test_weights_one_and_nothing_give_back_the_first_adapter_itself() -> None:
    one = lora(1)

    made = combine([one, lora(2), lora(3)], [1, 0, 0])

    for name, pair in made.layers.items():
        np.testing.assert_array_equal(pair.down, one.layers[name].down)
        np.testing.assert_array_equal(pair.up, one.layers[name].up)
        assert pair.scale == one.layers[name].scale


def test_merging_duplicates_loses_nothing_and_needs_no_more_rank() -> None:
    one = lora(1)

    same(combine([one, one], [0.5, 0.5]), one)
    same(combine([one, one], [0.5, 0.5], rank=4), one)
    same(combine([one, one], [0.5, 0.5], "cross"), one)


def test_the_cross_form_differs_from_the_sum_by_the_cross_terms_and_does_not_see_a_sign() -> None:
    one, two, (v, w) = lora(1, scale=2.0), lora(2, scale=0.5), (0.3, 0.6)

    made = combine([one, two], [v, w], "cross")

    for name, pair in made.layers.items():
        a, b = one.layers[name], two.layers[name]
        wanted = v * v * a.change() + w * w * b.change() + v * w * (2.0 * a.up @ b.down + 0.5 * b.up @ a.down)
        np.testing.assert_allclose(pair.change(), wanted, atol=1e-5)
    same(combine([one, two], [-v, -w], "cross"), made)


def test_a_truncated_sum_is_the_nearest_of_its_rank() -> None:
    whole = combine([lora(1), lora(2)], [0.5, 0.5])

    for rank in (1, 3, 8):
        part = combine([lora(1), lora(2)], [0.5, 0.5], rank=rank)
        left = 0.0
        for name, pair in part.layers.items():
            assert pair.rank == min(rank, 8)
            left += float(np.sum(np.linalg.svd(whole.layers[name].change().astype("f8"), compute_uv=False)[rank:] ** 2))
        total = sum(float(np.sum(pair.change().astype("f8") ** 2)) for pair in whole.layers.values())
        assert lost(whole, part) == pytest.approx((left / total) ** 0.5, abs=1e-5)
    assert truncate(whole.layers["a"], 8) is whole.layers["a"]


def test_layers_that_only_one_adapter_changes_are_its_own() -> None:
    made = combine([lora(1, layers=("a",)), lora(2, layers=("b",))], [0.5, 2.0])

    np.testing.assert_allclose(made.layers["b"].change(), 2 * lora(2, layers=("b",)).layers["b"].change(), atol=1e-5)
    assert {pair.rank for pair in made.layers.values()} == {4}


def test_similarity_is_the_cosine_of_the_changes() -> None:
    one, two = lora(1), lora(2)
    flat = [np.concatenate([each.layers[name].change().ravel() for name in "ab"]) for each in (one, two)]

    assert similarity(one, two) == pytest.approx(
        float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])), abs=1e-5
    )
    assert similarity(one, combine([one], [-3])) == pytest.approx(-1)


def test_what_cannot_be_combined_is_refused() -> None:
    narrow = Lora({"a": Pair(np.zeros((2, 3), "f4"), np.zeros((9, 2), "f4"))}, gguf=False)
    for given, weights, form, told in (
        ([lora()], [0.0], "sum", "leave nothing"),
        ([lora()], [float("nan")], "sum", "leave nothing"),
        ([lora(), narrow], [1, 1], "sum", "other widths at a"),
        ([lora(), lora(rank=3)], [1, 1], "cross", "other ranks at a"),
        ([lora(), lora(layers=("a",))], [1, 1], "cross", "not all change it"),
        ([lora(), Lora(lora().layers, gguf=True)], [1, 1], "sum", "do not mix"),
    ):
        with pytest.raises(ConfigError, match=told):
            combine(given, weights, form)  # type: ignore[arg-type]


def test_a_composed_adapter_is_a_peft_folder_that_passes_the_checks(tmp_path: Path) -> None:
    one, two = (load_lora(peft(tmp_path / str(i), tensors(i))) for i in range(2))
    made = combine([one, two], [0.5, 0.25])
    uneven = Lora(
        {**made.layers, "model.layers.0.self_attn.q_proj": one.layers["model.layers.0.self_attn.q_proj"]}, False, BASE
    )

    for i, each in enumerate((made, uneven)):
        save_peft(each, tmp_path / f"made{i}")
        same(load_lora(tmp_path / f"made{i}"), each, within=1e-4)  # fmt: skip
