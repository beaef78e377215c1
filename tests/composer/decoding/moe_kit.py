"""Shared by the checks of mixture-of-experts models: random models of 3 layers with 8 experts, and ways to run them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
import transformers as hf

from composer.decoding.moe import Moe, routing
from composer.decoding.policies import Counts

LAYERS, EXPERTS, VOCABULARY = 3, 8, 97
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, "initializer_range": 0.3,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "Mixtral": (hf.MixtralConfig, hf.MixtralForCausalLM, {"num_local_experts": EXPERTS}),
    "OLMoE": (hf.OlmoeConfig, hf.OlmoeForCausalLM, {"num_experts": EXPERTS, "norm_topk_prob": False}),
    "Qwen2-MoE": (
        hf.Qwen2MoeConfig,
        hf.Qwen2MoeForCausalLM,
        {"num_experts": EXPERTS, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "norm_topk_prob": False},
    ),
    "Qwen3-MoE": (
        hf.Qwen3MoeConfig,
        hf.Qwen3MoeForCausalLM,
        {"num_experts": EXPERTS, "moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True},
    ),
    "GraniteMoE": (hf.GraniteMoeConfig, hf.GraniteMoeForCausalLM, {"num_local_experts": EXPERTS}),
    "DeepSeek-V3": (
        hf.DeepseekV3Config,
        hf.DeepseekV3ForCausalLM,
        {
            "n_routed_experts": EXPERTS, "moe_intermediate_size": 24, "n_group": 4, "topk_group": 2, "kv_lora_rank": 16,
            "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 0,
            "num_key_value_heads": 4, "n_shared_experts": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True,
        },
    ),
    "GPT-OSS": (
        hf.GptOssConfig,
        hf.GptOssForCausalLM,
        {"num_local_experts": EXPERTS, "head_dim": 8, "sliding_window": 6, "attn_implementation": "eager"},
    ),
}  # fmt: skip
PROMPTS = [[5, 17, 42, 8, 23, 60, 11], [71, 33, 9, 90], [14, 15, 16, 17, 18]]


def made(family: str, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A random model; the same each time."""
    config, kind, own = FAMILIES[family]
    torch.manual_seed(7)
    own = {**COMMON, **own, **more}
    model = kind(config(**{name: value for name, value in own.items() if name != "attn_implementation"}))
    if "attn_implementation" in own:
        model.set_attn_implementation(own["attn_implementation"])
    for name, weights in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("e_score_correction_bias", "router.bias")):
            weights.data.normal_(0, 0.3)  # what is 0 in a new model would show nothing
    return model.to(dtype).eval()


@contextmanager
def seen(moe: Moe) -> Any:
    """What each router hands to its experts, by layer: (logits, weights, indices). Inside a `routing`: as it was changed."""
    told: dict[int, list[tuple[Any, ...]]] = {layer: [] for layer in moe.routers}

    def keep(layer: int) -> Callable[..., None]:
        order = moe.family.order
        return lambda _, __, out: told[layer].append(tuple(out[place].clone() for place in order))

    handles = [router.register_forward_hook(keep(layer)) for layer, router in moe.routers.items()]
    try:
        yield told
    finally:
        for handle in handles:
            handle.remove()


def run(moe: Moe, ids: Any = None, policy: Any = (), counts: Counts | None = None, **more: Any) -> Any:
    """The logits of one pass under a policy."""
    ids = torch.tensor([PROMPTS[0]]) if ids is None else ids
    with torch.no_grad(), routing(moe, {"path": policy}, counts=counts):
        return moe.model(ids, **more).logits


def routed(moe: Moe, policy: Any) -> dict[int, tuple[Any, ...]]:
    """What the experts of each layer are given for the first prompt under a policy."""
    with torch.no_grad(), routing(moe, {"path": policy}), seen(moe) as told:
        moe.model(torch.tensor([PROMPTS[0]]))
    return {layer: one[0] for layer, one in told.items()}


def own(moe: Moe, ids: Any = None, **more: Any) -> Any:
    with torch.no_grad():
        return moe.model(torch.tensor([PROMPTS[0]]) if ids is None else ids, **more).logits


def refused(kind: type[Exception], words: str, act: Callable[[], Any]) -> None:
    try:
        act()
    except kind as why:
        assert words in str(why), f"{words!r} is not in {why}"
        assert getattr(why, "remedy", None), "an error without a remedy"
        return
    raise AssertionError(f"was not refused: {words}")


def near(one: Any, two: Any) -> None:
    assert torch.allclose(one, two, atol=2e-4, rtol=1e-4), float((one - two).abs().max())


def padded(prompts: list[list[int]]) -> dict[str, Any]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
    return {"ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
