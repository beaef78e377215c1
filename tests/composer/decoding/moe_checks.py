"""What must hold of the routing in every family of mixture-of-experts models, on random ones: mechanics only.

Run by the interpreter that has torch and transformers (`test_moe.py` does it), together with the checks in the files
beside. Prints JSON: per family and check what failed, null where nothing did.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from moe_contrast_checks import (
    beta_0_and_alpha_1_are_greedy,
    self_contrast_equals_two_passes_with_two_caches,
    several_paths_are_averaged,
    the_golden_values,
    those_who_end_leave_the_batch,
)
from moe_kit import EXPERTS, FAMILIES, LAYERS, PROMPTS, made, near, own, padded, refused, routed, run, seen
from moe_model_checks import (
    a_model_that_routes_otherwise_than_its_family_is_refused,
    dense_layers_are_no_layers_of_experts,
    every_kernel_takes_what_is_padded,
    experts_that_are_not_asked_by_their_module_are_refused,
    groups_cannot_be_left_without_experts,
    kernels_that_go_round_the_router_are_refused,
    models_that_are_not_known_are_refused,
)

from composer.decoding.moe import Moe, check, routing
from composer.decoding.policies import (
    Bias,
    Counts,
    ExpertMask,
    KOverride,
    RandomExpert,
    RankExpert,
    RouterPolicy,
    Scale,
    TopP,
)
from composer.errors import RequestError


def the_choice_is_recomputed_bit_for_bit(family: str, moe: Moe) -> None:
    assert moe.family.name == family
    assert list(moe.routers) == [*range(LAYERS)]
    for dtype in (torch.float32, torch.bfloat16):
        check(made(family, dtype))
    if family not in ("Mixtral", "GraniteMoE", "GPT-OSS"):  # the setting is read, not known by heart
        check(made(family, norm_topk_prob=family in ("OLMoE", "Qwen2-MoE")))


def default_k_reproduces_and_another_k_is_the_models_own(family: str, moe: Moe) -> None:
    assert run(moe, policy=(KOverride(2),)).equal(own(moe))
    for k in (1, 4):
        found = run(moe, policy=(KOverride(k),))
        for router in moe.routers.values():
            router.top_k = k
        natural = own(moe)
        for router in moe.routers.values():
            router.top_k = 2
        assert found.equal(natural) and not found.equal(own(moe))
    told = routed(moe, (KOverride({1: 3}),))
    assert [told[layer][2].shape[-1] for layer in told] == [2, 3, 2]


def forbidding_all_but_k_chooses_those(family: str, moe: Moe) -> None:
    for experts in ([0, 1], [2, 7]):
        mask = ExpertMask(
            {(layer, one): "forbid" for layer in range(LAYERS) for one in range(EXPERTS) if one not in experts}
        )
        for logits, weights, indices in routed(moe, (mask,)).values():
            assert (indices.sort(-1)[0] == torch.tensor(experts)).all(), indices
            assert torch.allclose(weights.float(), by_hand(family, moe, logits, indices, allowed=experts), atol=1e-6)


def by_hand(
    family: str, moe: Moe, logits: Any, indices: Any, allowed: list[int] | None = None, scale: Any = 1.0
) -> Any:
    """The weights of chosen experts, written down a second time."""
    barred = torch.ones(EXPERTS, dtype=torch.bool)
    barred[allowed if allowed is not None else list(range(EXPERTS))] = False
    raw = (logits.sigmoid() if family == "DeepSeek-V3" else logits.masked_fill(barred, -math.inf).softmax(-1)) * scale
    found = raw.gather(-1, indices)
    if family in ("OLMoE", "Qwen2-MoE"):
        return found
    return found / found.sum(-1, keepdim=True) * (2.5 if family == "DeepSeek-V3" else 1.0)


def what_is_forbidden_is_never_chosen(family: str, moe: Moe) -> None:
    mask = ExpertMask({(layer, one): "forbid" for layer in range(LAYERS) for one in (1, 4, 6)})
    weak = RankExpert(1 if family == "DeepSeek-V3" else 2)  # of whose groups a token may get a poor one
    for policy in ((mask,), (weak, mask), (mask, RandomExpert(3)), (mask, TopP(0.9)), (Bias({(0, 1): 99.0}), mask)):
        for _, weights, indices in routed(moe, policy).values():
            assert not torch.isin(indices, torch.tensor([1, 4, 6])).any(), (policy, indices)
            assert (weights > 0).any(-1).all() and torch.isfinite(weights).all()
    assert run(moe, policy=(mask, ExpertMask(dict.fromkeys(mask.states, "allow")))).equal(own(moe))


def masks_of_one_layer_change_only_what_comes_later(family: str, moe: Moe) -> None:
    kept: list[Any] = []
    for policy in ((), (ExpertMask.only(1, [0, 1, 2], EXPERTS),)):
        with torch.no_grad(), routing(moe, {"path": policy}):
            kept.append(moe.model(torch.tensor([PROMPTS[0]]), output_hidden_states=True).hidden_states)
    same = [one.equal(two) for one, two in zip(*kept, strict=True)]
    assert same == [True, True, False, False], same


def hooks_are_removed_after_exceptions(family: str, moe: Moe) -> None:
    class Broken(RouterPolicy):
        def choose(self, view: Any, logits: Any) -> Any:
            raise ZeroDivisionError(view.layer)

    before = own(moe)
    try:
        run(moe, policy=(Broken(),))
    except ZeroDivisionError:
        pass
    else:
        raise AssertionError("it was not raised")
    assert own(moe).equal(before)
    assert not any(router._forward_hooks for router in moe.routers.values()) and not moe.model._forward_pre_hooks
    assert run(moe, policy=(KOverride(1),)).shape == before.shape  # and it can be controlled again


def padding_never_counts(family: str, moe: Moe) -> None:
    batch, apart = Counts(), Counts()
    for policy in ((), (RandomExpert(5),)):
        together = run(moe, policy=policy, counts=batch, **padded(PROMPTS))
        for row, prompt in enumerate(PROMPTS):
            near(together[row, -1], run(moe, torch.tensor([prompt]), policy, apart)[0, -1])
    assert batch.tokens == apart.tokens == {"path": 2 * sum(map(len, PROMPTS))}
    assert batch.experts("path") == apart.experts("path")
    assert [sum(one) for one in batch.experts("path").values()] == [(2 + 1) * sum(map(len, PROMPTS))] * LAYERS
    assert batch.per_token("path") == LAYERS * 1.5


class Phases(RouterPolicy):
    """Notes the phase of each layer's pass, and edits nothing."""

    def __init__(self) -> None:
        self.phases: list[str] = []

    def edit_logits(self, view: Any) -> Any:
        self.phases.append(view.phase)
        return view.logits


def prefill_and_decode_equal_one_pass(family: str, moe: Moe) -> None:
    ids = torch.tensor([PROMPTS[0] + PROMPTS[1]])
    for policy in ((), (RankExpert(2),), (RandomExpert(1, "raw"),), (TopP(0.5), ExpertMask({(1, 3): "force"}))):
        whole, parts = Counts(), Counts()
        full = run(moe, ids, policy, whole)
        told = Phases()
        with torch.no_grad(), routing(moe, {"path": (*policy, told)}, counts=parts):
            passed = moe.model(ids[:, :6], use_cache=True)
            found = [passed.logits]
            for at in range(6, ids.shape[1]):
                passed = moe.model(ids[:, at : at + 1], past_key_values=passed.past_key_values, use_cache=True)
                found.append(passed.logits)
        near(torch.cat(found, 1), full)
        assert whole.experts("path") == parts.experts("path")
        assert told.phases == ["prefill"] * LAYERS + ["decode"] * LAYERS * (ids.shape[1] - 6)


def rows_have_policies_of_their_own(family: str, moe: Moe) -> None:
    ids = torch.tensor([[5, 17, 42, 8], [71, 33, 9, 90], [14, 15, 16, 17], [5, 17, 42, 8]])
    paths = {"strong": (), "weak": (RankExpert(2),), "wide": (KOverride(4),)}
    counts = Counts()
    for rows in (["weak", "strong", "wide", "weak"], ["strong", "strong", "weak", "wide"]):
        with torch.no_grad(), routing(moe, paths, rows, counts) as hooks:
            together = moe.model(ids).logits
            hooks.rows = rows[::-1]
            turned = moe.model(ids.flip(0)).logits.flip(0)
        for row, name in enumerate(rows):
            near(together[row], run(moe, ids[row : row + 1], paths[name])[0])
            near(turned[row], together[row])
    # Weights of 0 are nobody's: a weak pass is one expert a layer.
    assert [counts.per_token(name) for name in paths] == [2 * LAYERS, LAYERS, 4 * LAYERS]


def experts_compute_no_more_than_was_chosen(family: str, moe: Moe) -> None:
    """Also where paths choose unequal numbers: a weak row costs one expert, not as many as its neighbour has."""
    ids = torch.tensor([[5, 17, 42, 8], [71, 33, 9, 90], [14, 15, 16, 17]])
    paths = {"strong": (), "weak": (RankExpert(2),), "also two": (KOverride(2),)}
    for kernel in ("eager", "grouped_mm", "batched_mm"):
        moe.model.set_experts_implementation(kernel)
        for rows, pairs in (
            (["strong", "weak", "weak"], 4 * (2 + 1 + 1)),
            (["weak", "strong", "weak"], 4 * (1 + 2 + 1)),
            (["strong", "also two", "strong"], 4 * (2 + 2 + 2)),
        ):
            given: list[int] = []
            with torch.no_grad(), routing(moe, paths, rows), ExitStack() as stack:
                for bank in moe.banks.values():
                    note = bank.register_forward_pre_hook(lambda _, args, given=given: given.append(args[1].numel()))
                    stack.callback(note.remove)
                together = moe.model(ids).logits
            assert given == [pairs] * LAYERS, (kernel, rows, given)
            for row, name in enumerate(rows):
                near(together[row], run(moe, ids[row : row + 1], paths[name])[0])
    assert not any(bank._forward_hooks or bank._forward_pre_hooks for bank in moe.banks.values())


def weak_experts_are_of_that_rank(family: str, moe: Moe) -> None:
    for layer, (logits, weights, indices) in routed(moe, (RankExpert(2),)).items():
        wide = routed(moe, (RankExpert(2), KOverride(3))) if layer == 0 else None
        assert indices.shape[-1] == 1
        if layer == 0:  # of later ones the input is another
            ranked = routed(moe, (KOverride(3),))[0][2]
            chosen = routed(moe, ())[0][2]
            for token in range(len(indices)):
                assert {int(indices[token, 0])} == set(ranked[token].tolist()) - set(chosen[token].tolist())
            assert wide is not None and wide[0][2].equal(indices)  # k is not what a rank depends on
        one = 2.5 if family == "DeepSeek-V3" else 1.0
        assert torch.allclose(weights.float(), torch.full_like(weights, one).float())
        raw = logits.sigmoid() * 2.5 if family == "DeepSeek-V3" else logits.float().softmax(-1)
        if layer == 0:
            found = routed(moe, (RankExpert(2, "raw"),))[0]
            assert torch.allclose(found[1].float(), raw.gather(-1, indices), atol=1e-6)


def random_experts_differ_by_seed_layer_and_place_only(family: str, moe: Moe) -> None:
    ids = torch.tensor([[5] * 40, [7] * 40])
    kept = []
    for seed in (0, 0, 1):
        with torch.no_grad(), routing(moe, {"path": (RandomExpert(seed),)}), seen(moe) as told:
            moe.model(ids)
        kept.append(torch.stack([told[layer][0][2].view(2, 40) for layer in told]))
    assert kept[0].equal(kept[1]) and not kept[0].equal(kept[2]) and not kept[0][0].equal(kept[0][1])
    if family != "DeepSeek-V3":  # where the groups that a token can choose from depend on the token
        assert kept[0][:, 0].equal(kept[0][:, 1])
        assert len(kept[0].unique()) == EXPERTS


def top_p_takes_the_fewest_that_hold_it(family: str, moe: Moe) -> None:
    for p, cap, most in ((0.0, None, 4), (0.4, None, 4), (0.6, 3, 3), (1.0, None, 4), (1.0, EXPERTS, EXPERTS)):
        counts = Counts()
        run(moe, policy=(TopP(p, cap),), counts=counts)
        logits, weights, indices = routed(moe, (TopP(p, cap),))[0]
        ranking = routed(moe, (KOverride(4),))[0][2] if family == "DeepSeek-V3" else None
        for token in range(len(logits)):
            used = int((weights[token] != 0).sum())
            assert 1 <= used <= most
            if ranking is None:
                share, order = logits[token].float().softmax(-1).sort(descending=True)
                wanted = next((n for n in range(1, EXPERTS) if share[:n].sum() > p), EXPERTS)
                assert used == min(wanted, most), (used, wanted, share)
                assert indices[token, :used].tolist() == order[:used].tolist()
                assert torch.allclose(weights[token, :used].float(), share[:used], atol=1e-6)  # raw
            else:
                assert set(indices[token].tolist()) <= set(ranking[token].tolist())
            assert int(indices[token].min()) >= 0 and int(indices[token].max()) < EXPERTS
        mean = sum(counts.experts("path")[0]) / len(PROMPTS[0])
        assert mean == float((weights != 0).sum()) / len(PROMPTS[0])
    if family in ("Mixtral", "Qwen3-MoE", "GraniteMoE", "GPT-OSS"):
        sums = routed(moe, (TopP(0.6, weights="family"),))[0][1].float().sum(-1)
        assert torch.allclose(sums, torch.ones_like(sums))


class Beside(RouterPolicy):
    """The experts beside those that the model chooses, with their weights."""

    def choose(self, view: Any, logits: Any) -> Any:
        return view.weights, (view.indices + 1) % EXPERTS


class Notes(RouterPolicy):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.views: list[Any] = []

    def edit_logits(self, view: Any) -> Any:
        self.views.append(view)
        return view.logits


def ones_own_policy_sees_and_says_everything(family: str, moe: Moe) -> None:
    notes = Notes()
    batch = padded(PROMPTS[:2])
    with torch.no_grad(), routing(moe, {"a": (), "b": (notes, KOverride(3))}, ["a", "b"]):
        moe.model(batch["ids"], attention_mask=batch["attention_mask"], position_ids=batch["position_ids"])
    assert [view.layer for view in notes.views] == [*range(LAYERS)]
    view = notes.views[0]
    assert (view.family, view.default_k, view.k, view.phase) == (family, 2, 3, "prefill")
    assert view.norm_topk == (family not in ("OLMoE", "Qwen2-MoE"))
    assert view.rows.tolist() == [1] * 7
    assert view.real.tolist() == [False] * 3 + [True] * 4
    assert view.positions.tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert view.logits.shape == (7, EXPERTS) and view.weights.shape == view.indices.shape == (7, 2)
    other = routed(moe, (Beside(),))[0]
    assert other[2].equal((routed(moe, ())[0][2] + 1) % EXPERTS) and other[1].equal(routed(moe, ())[0][1])
    assert not run(moe, policy=(Beside(),)).equal(own(moe))
    assert run(moe, policy=(Beside(), KOverride(1))).equal(run(moe, policy=(Beside(),)))  # the last that chooses


def parts_count_in_one_order(family: str, moe: Moe) -> None:
    places = [(layer, 3) for layer in range(LAYERS)]
    bias, scale = Bias(dict.fromkeys(places, 50.0)), Scale(dict.fromkeys(places, 0.25))
    for policy in ((bias, scale), (scale, bias)):
        for logits, weights, indices in routed(moe, policy).values():
            if family != "DeepSeek-V3":  # where a bias of 50 only means a sigmoid of 1
                assert (indices == 3).any(-1).all()
            factor = torch.ones(EXPERTS)
            factor[3] = 0.25
            moved = logits.float() + 50.0 * (torch.arange(EXPERTS) == 3)
            wanted = by_hand(family, moe, moved, indices, scale=factor)
            assert torch.allclose(weights.float(), wanted, atol=1e-6), (weights, wanted)
    nothing = routed(moe, (Scale({(0, expert): 0.0 for expert in range(EXPERTS)}),))[0][1]
    assert not nothing.any()  # and no division by it
    far = routed(moe, (Bias({(0, expert): -500.0 * expert for expert in range(EXPERTS)}), RankExpert(2)))[0]
    assert torch.isfinite(far[1]).all()
    force = ExpertMask(dict.fromkeys(places, "force"))
    plainly = routed(moe, ())[0]
    _, weights, indices = routed(moe, (force,))[0]
    for token in range(len(weights)):
        mine = {int(one): float(w) for one, w in zip(indices[token], weights[token], strict=True) if w != 0}
        theirs = {int(one): float(w) for one, w in zip(plainly[2][token], plainly[1][token], strict=True)}
        theirs.setdefault(3, sum(theirs.values()) / 2)
        assert mine.keys() == theirs.keys() and all(abs(mine[one] - theirs[one]) < 1e-6 for one in mine), (mine, theirs)
    _, weights, indices = routed(moe, (ExpertMask(force.states, dict.fromkeys(places, 0.125)),))[0]
    assert torch.allclose(torch.where(indices == 3, weights.float(), 0.0).sum(-1), torch.tensor(0.125))


def what_a_model_cannot_follow_is_refused(family: str, moe: Moe) -> None:
    few = ExpertMask.only(1, [5], EXPERTS)
    refused(RequestError, "2 experts are needed", lambda: run(moe, policy=(few,)))
    refused(
        RequestError,
        "5 experts are needed",
        lambda: run(moe, policy=(ExpertMask.only(0, [0, 1, 2, 3], EXPERTS), KOverride(5))),
    )
    refused(RequestError, "there is no expert 8", lambda: run(moe, policy=(Bias({(0, 8): 1.0}),)))
    refused(RequestError, "in a layer 3", lambda: run(moe, policy=(KOverride({3: 1}),)))
    refused(RequestError, "experts are needed", lambda: run(moe, policy=(RankExpert(8),)))
    refused(RequestError, "0 experts are chosen", lambda: run(moe, policy=(KOverride(0),)))
    refused(RequestError, "paths", lambda: two(moe, ["a"]))
    refused(RequestError, "paths", lambda: two(moe, ["a", "c"]))
    with routing(moe, {"path": ()}):
        refused(RequestError, "controlled already", lambda: run(moe))
    assert run(moe).equal(own(moe))


def two(moe: Moe, rows: list[str]) -> None:
    with torch.no_grad(), routing(moe, {"a": (), "b": ()}, rows):
        moe.model(torch.tensor([[5, 6], [7, 8]]))


def main() -> None:
    alone = [
        the_golden_values, models_that_are_not_known_are_refused, a_model_that_routes_otherwise_than_its_family_is_refused,
        kernels_that_go_round_the_router_are_refused, every_kernel_takes_what_is_padded, dense_layers_are_no_layers_of_experts,
        groups_cannot_be_left_without_experts, experts_that_are_not_asked_by_their_module_are_refused,
    ]  # fmt: skip
    each = [
        the_choice_is_recomputed_bit_for_bit, default_k_reproduces_and_another_k_is_the_models_own,
        forbidding_all_but_k_chooses_those, what_is_forbidden_is_never_chosen, masks_of_one_layer_change_only_what_comes_later,
        hooks_are_removed_after_exceptions, padding_never_counts, prefill_and_decode_equal_one_pass,
        rows_have_policies_of_their_own, weak_experts_are_of_that_rank, random_experts_differ_by_seed_layer_and_place_only,
        top_p_takes_the_fewest_that_hold_it, parts_count_in_one_order, ones_own_policy_sees_and_says_everything, what_a_model_cannot_follow_is_refused,
        self_contrast_equals_two_passes_with_two_caches, those_who_end_leave_the_batch, beta_0_and_alpha_1_are_greedy,
        several_paths_are_averaged, experts_compute_no_more_than_was_chosen,
    ]  # fmt: skip
    torch.set_num_threads(1)
    found: dict[str, dict[str, str | None]] = {}

    def note(family: str, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            found.setdefault(family, {})[name] = traceback.format_exc()
        else:
            found.setdefault(family, {})[name] = None

    for act in alone:
        note("any", act.__name__, act)
    for family in FAMILIES:
        for test in each:
            note(family, test.__name__, lambda family=family, test=test: test(family, check(made(family))))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
