"""Which mixture-of-experts models and kernels can be controlled and which cannot: no check depends on a family."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf
from moe_kit import COMMON, EXPERTS, FAMILIES, made, near, refused, run

from composer.decoding.moe import check, routing
from composer.decoding.policies import ExpertMask, KOverride, RankExpert, TopP
from composer.errors import RequestError, RoutingError


def models_that_are_not_known_are_refused() -> None:
    shape = {name: value for name, value in COMMON.items() if name != "num_experts_per_tok"}
    refused(RoutingError, "no router", lambda: check(hf.LlamaForCausalLM(hf.LlamaConfig(**shape)).eval()))
    phi = hf.PhimoeConfig(**COMMON, num_local_experts=EXPERTS)
    refused(RoutingError, "PhimoeTopKRouter", lambda: check(hf.PhimoeForCausalLM(phi).eval()))
    refused(RoutingError, "trained", lambda: check(made("Mixtral").train()))


def a_model_that_routes_otherwise_than_its_family_is_refused() -> None:
    for family in FAMILIES:
        model = made(family)
        router = check(model).routers[1]

        def otherwise(*args: Any, forward: Any = router.forward, family: str = family) -> Any:
            told = list(forward(*args))
            told[1] = told[1] * 1.0001
            return tuple(told)

        router.forward = otherwise
        refused(RoutingError, f"layer 1 of {family}", lambda model=model: check(model))


def kernels_that_go_round_the_router_are_refused() -> None:
    model = made("GPT-OSS")
    block = model.model.layers[2].mlp
    block.forward = lambda hidden: (hidden * 0.5, None)  # as a fused kernel: nobody asks the router
    refused(RoutingError, "only [0, 1] asked their router", lambda: check(model))
    model = made("Mixtral")
    for layer in model.model.layers:
        old = layer.mlp.experts.forward
        layer.mlp.experts.forward = lambda hidden, index, weights, old=old: old(hidden, index * 0, weights * 0 + 1)
    refused(RoutingError, "no other choice is followed", lambda: check(model))


def experts_that_are_not_asked_by_their_module_are_refused() -> None:
    model = made("Mixtral")
    moe = check(model)
    block = model.model.layers[1].mlp
    block.forward = lambda hidden: (
        hidden * float(block.gate(hidden)[1].sum())
    )  # the router is asked, its experts are not
    with torch.no_grad(), routing(moe, {"strong": (), "weak": (RankExpert(2),)}, ["strong", "weak"]):
        refused(RoutingError, "not asked by their module", lambda: model(torch.tensor([[5, 17, 42], [71, 33, 9]])))


def every_kernel_takes_what_is_padded() -> None:
    for kernel in ("eager", "grouped_mm", "batched_mm"):
        model = made("OLMoE")
        model.set_experts_implementation(kernel)
        moe = check(model)
        wide = run(moe, policy=(TopP(0.4, EXPERTS),))
        if kernel == "eager":
            first = wide
        near(wide, first)


def dense_layers_are_no_layers_of_experts() -> None:
    moe = check(made("DeepSeek-V3", first_k_dense_replace=1))
    assert list(moe.routers) == [1, 2]
    refused(RequestError, "in a layer 0", lambda: run(moe, policy=(KOverride({0: 1}),)))


def groups_cannot_be_left_without_experts() -> None:
    moe = check(made("DeepSeek-V3"))
    # One expert of each of the four groups: two groups are chosen, so there are two to choose from, not four.
    assert run(moe, policy=(ExpertMask.only(0, [0, 2, 4, 6], EXPERTS),)).isfinite().all()
    spread = ExpertMask.only(0, [0, 2, 4, 6], EXPERTS)
    refused(
        RequestError,
        "3 experts are needed and a token can choose of 2",
        lambda: run(moe, policy=(spread, RankExpert(2))),
    )
