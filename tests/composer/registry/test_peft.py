"""PEFT folders: what is served as it is, and what is refused before anything of it is loaded (R14)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pefts import BASE, LAYERS, RANK, base, peft, tensors

from composer.config import PACKAGED
from composer.errors import ConfigError
from composer.registry.bases import read_base
from composer.registry.peft import check_peft, read_peft

WHERE = "experts.yaml:7 (experts.law.adapter)"
_Q = "base_model.model.model.layers.0.self_attn.q_proj.lora"


def look(folder: Path) -> None:
    check_peft(read_peft(folder, where=WHERE), base(), declared=BASE, where=WHERE)


def test_a_folder_that_fits_is_read_with_its_factors(tmp_path: Path) -> None:
    folder = peft(tmp_path / "law")

    look(folder)
    found = read_peft(folder)

    assert found.base == BASE and len(found.modules) == 2 * len(LAYERS)
    assert {(module.rank, module.scale) for module in found.modules.values()} == {(RANK, 2.0)}


def test_patterns_and_rslora_change_the_factor_of_a_layer(tmp_path: Path) -> None:
    folder = peft(
        tmp_path / "law", use_rslora=True, alpha_pattern={"k_proj": 6}, rank_pattern={"layers.0.mlp.down_proj": 4}
    )

    found = {name: module.scale for name, module in read_peft(folder).modules.items()}

    assert found["model.layers.1.self_attn.k_proj"] == 3.0
    assert found["model.layers.0.self_attn.q_proj"] == 4.0


@pytest.mark.parametrize("skill", ["arithmetic", "dates", "extraction", "sorting", "units"])
def test_the_packaged_folders_fit_the_packaged_model(skill: str, smollm2: Path) -> None:
    check_peft(
        read_peft(PACKAGED / "adapters" / skill), read_base(smollm2, "smollm2"), declared="SmolLM2-135M-Instruct"
    )


def without(*ends: str) -> dict[str, np.ndarray]:
    return {name: value for name, value in tensors().items() if not name.endswith(ends)}


def renamed(old: str, new: str) -> dict[str, np.ndarray]:
    return {name.replace(old, new): value for name, value in tensors().items()}


def resized(name: str, *shape: int) -> dict[str, np.ndarray]:
    return {**tensors(), name: np.zeros(shape, "f2")}


MISMATCHES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another method": (lambda at: peft(at, peft_type="IA3"), "peft_type is 'IA3', expected 'LORA'"),
    "DoRA": (lambda at: peft(at, use_dora=True), "use_dora is True, which is not served"),
    "whole modules": (lambda at: peft(at, modules_to_save=["lm_head"]), r"modules_to_save is \['lm_head'\]"),
    "a bias": (lambda at: peft(at, bias="all"), "bias is 'all', expected 'none'"),
    "PiSSA": (lambda at: peft(at, init_lora_weights="pissa_niter_4"), "init_lora_weights is 'pissa_niter_4'"),
    "no rank": (lambda at: peft(at, r=0), "r is 0, expected a whole number"),
    "no alpha": (lambda at: peft(at, lora_alpha="x"), "lora_alpha is 'x'"),
    "a pattern": (lambda at: peft(at, alpha_pattern={".*(q|k)_proj": 3}), "alpha_pattern has the pattern"),
    "another rank": (lambda at: peft(at, r=8), "has rank 4 in lora_A and 4 in lora_B, the config says 8"),
    "ranks that differ": (lambda at: peft(at, resized(f"{_Q}_B.weight", 128, 2)), "rank 4 in lora_A and 2 in lora_B"),
    "another base by name": (lambda at: peft(at, base_model_name_or_path="owner/large"), "is 'owner/large', the model small"),
    "a layer too many": (lambda at: peft(at, tensors(layers=3)), "changes model.layers.2.* does not have"),
    "a module the base lacks": (
        lambda at: peft(at, renamed("k_proj", "zz_proj"), target_modules=["q_proj", "zz_proj", "down_proj"]),
        "changes model.layers.0.self_attn.zz_proj, which the model small does not have",
    ),
    "other widths": (lambda at: peft(at, resized(f"{_Q}_A.weight", 4, 64)), r"lora_A.weight has shape \(4, 64\)"),
    "other widths out": (lambda at: peft(at, resized(f"{_Q}_B.weight", 64, 4)), r"lora_B.weight has shape \(64, 4\)"),
    "half a pair": (lambda at: peft(at, without("0.self_attn.q_proj.lora_B.weight")), "its lora_B is missing"),
    "another prefix": (lambda at: peft(at, renamed("base_model.model.", "")), "is none of a LoRA"),
    "embeddings": (
        lambda at: peft(at, {**tensors(), "base_model.model.lm_head.weight": np.zeros((2, 2), "f2")}),
        "'base_model.model.lm_head.weight' is none of a LoRA",
    ),
    "one dimension": (lambda at: peft(at, resized(f"{_Q}_B.weight", 512)), "expected two dimensions"),
    "a target without tensors": (lambda at: peft(at, without(*(f"{name}.lora_{side}.weight" for name in ("k_proj",) for side in "AB"))), "names 'k_proj' in target_modules"),
    "tensors without a target": (lambda at: peft(at, target_modules=["q_proj", "k_proj"]), "target_modules of the config does not name it"),
    "nothing": (lambda at: peft(at, {}), "holds no tensors"),
    "added tokens": (
        lambda at: (peft(at) / "added_tokens.json").write_text(json.dumps({"<new>": 64})),
        "a tokenizer of 65 tokens, the model small knows 64",
    ),
    "another tokenizer": (
        lambda at: (peft(at) / "tokenizer.json").write_text(
            json.dumps({"model": {"vocab": {str(i): i for i in range(64)}}, "added_tokens": [{"id": 70}]})
        ),
        "a tokenizer of 71 tokens",
    ),
    "a pickle": (
        lambda at: (peft(at) / "adapter_model.safetensors").rename(at / "adapter_model.bin"),
        "holds no adapter_model.safetensors; adapter_model.bin is a pickle",
    ),
    "no JSON": (lambda at: (peft(at) / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "a list": (lambda at: (peft(at) / "adapter_config.json").write_text("[]"), "it is no mapping"),
    "no config": (lambda at: (peft(at) / "adapter_config.json").unlink(), "holds no adapter_config.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_does_not_belong_together_is_refused_by_name(tmp_path: Path, name: str) -> None:
    make, told = MISMATCHES[name]
    make(tmp_path / "law")

    with pytest.raises(ConfigError, match=told) as caught:
        look(tmp_path / "law")

    assert caught.value.where == WHERE and caught.value.remedy
