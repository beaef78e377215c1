"""The primitive of contrast: golden values, and what must hold for every stream."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from composer.decoding.combine import combine, log_softmax, plausible
from composer.decoding.recipes import Recipe, average, contrast, contrastive, experts, proxy, top_bottom
from composer.errors import RequestError
from composer.types import Mix, Request, Stream

STRONG, WEAK = np.array([2.0, 1.0, 0.0, -1.0]), np.array([4.0, 0.0, 0.0, 0.0])
TOKENS = 9
LOGITS = arrays(np.float64, TOKENS, elements=st.floats(-20, 20, width=16))


def mixed(recipe: Recipe, *streams: Any) -> Any:
    weights, mix = recipe
    return combine(streams, weights, mix)


def test_the_golden_values() -> None:
    assert mixed(contrast(0.5, 0.1), STRONG, WEAK).tolist() == [1.0, 1.5, 0.0, -math.inf]


def test_the_weak_stream_changes_the_choice_and_only_among_what_is_plausible() -> None:
    weak = np.array([9.0, 5.0, 5.0, -50.0])  # the last token is what the weak one would never say
    found = mixed(contrast(1.0, 0.1), STRONG, weak)
    assert (int(found.argmax()), found[3]) == (1, -math.inf)
    assert int(mixed(contrast(1.0, 0.0), STRONG, weak).argmax()) == 3  # without a mask nonsense wins


@given(LOGITS, LOGITS, st.floats(0, 3), st.floats(0, 1))
def test_beta_0_and_alpha_1_are_greedy(strong: Any, weak: Any, beta: float, alpha: float) -> None:
    assert int(mixed(contrast(0.0, alpha), strong, weak).argmax()) == int(strong.argmax())
    chosen = int(mixed(contrast(beta, 1.0), strong, weak).argmax())
    assert strong[chosen] == pytest.approx(strong.max(), abs=1e-9)  # the best; of equal ones contrast may choose


@given(LOGITS, st.floats(0, 3))
def test_equal_streams_are_one(scores: Any, beta: float) -> None:
    kept = plausible(scores, 0.1)
    assert np.allclose(mixed(contrast(beta), scores, scores)[kept], scores[kept], atol=1e-9)
    for space in ("logprob", "prob"):
        assert np.allclose(mixed(average(3, space), scores, scores, scores), log_softmax(scores), atol=1e-9)
    assert np.allclose(mixed(average(2, "logit"), scores, scores), scores)
    for recipe in (experts(2.0, 1.0), proxy()):
        assert np.allclose(mixed(recipe, scores, scores, scores), scores, atol=1e-9)
    assert np.allclose(mixed(top_bottom(4, 2), scores, scores, scores, scores)[kept], scores[kept], atol=1e-9)


@given(LOGITS, LOGITS)
def test_a_weight_of_1_beside_zeros_is_that_stream(one: Any, two: Any) -> None:
    barred = np.where(np.arange(TOKENS) == 4, -math.inf, two)  # 0 times -inf is no number
    assert np.array_equal(combine([one, barred], (1.0, 0.0), Mix("logit", 0.0)), one)
    assert np.allclose(combine([one, barred], (1.0, 0.0), Mix("prob", 0.0)), log_softmax(one))


@given(LOGITS, LOGITS, LOGITS, st.permutations(range(TOKENS)), st.sampled_from(["logprob", "logit", "prob"]))
def test_tokens_have_no_order_and_streams_none_but_by_weight(
    one: Any, two: Any, three: Any, order: list[int], space: Any
) -> None:
    weights, mix = (1.5, -0.25, 0.75), Mix(space, 0.05)
    found = combine([one, two, three], weights, mix)
    assert np.allclose(
        combine([each[order] for each in (one, two, three)], weights, mix), found[order], equal_nan=False
    )
    turned = combine([three, one, two], (0.75, 1.5, -0.25), Mix(space, 0.05, mask_from=1))
    assert np.allclose(turned, found, atol=1e-9)


@given(LOGITS, LOGITS, st.floats(-30, 30), st.floats(-30, 30))
def test_a_contrast_does_not_see_a_constant(strong: Any, weak: Any, up: float, down: float) -> None:
    plain, moved = mixed(contrast(), strong, weak), mixed(contrast(), strong + up, weak + down)
    kept = plausible(strong, 0.1) & plausible(strong + up, 0.1)  # at the very edge rounding decides
    gap = moved[kept] - plain[kept]
    assert np.allclose(gap, gap[0], atol=1e-6)


@given(LOGITS, LOGITS, st.floats(0.01, 1))
def test_what_is_plausible_is_decided_before_anything_is_summed(strong: Any, weak: Any, alpha: float) -> None:
    for recipe in (contrast(2.0, alpha), contrastive(alpha)):
        assert np.array_equal(mixed(recipe, strong, weak) > -math.inf, plausible(strong, alpha))


def test_the_end_of_a_text_is_a_token_like_any_other() -> None:
    """A high beta can suppress it: nothing protects it, and nothing forbids it."""
    end, weak = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, 3.0])
    assert [int(mixed(contrast(beta), end, weak).argmax()) for beta in (0.0, 1.0)] == [2, 0]
    assert int(mixed(contrast(), STRONG, -WEAK).argmax()) == 0


def test_logits_veto_and_probabilities_do_not() -> None:
    sure, never = np.array([0.0, -9.0, -9.0]), np.array([-40.0, 0.0, 0.0])
    assert [int(mixed(average(2, space), sure, never).argmax()) for space in ("logprob", "prob")] == [1, 0]
    barred = np.array([-math.inf, 0.0, 0.0])
    assert mixed(average(2, "logprob"), sure, barred)[0] == -math.inf
    assert mixed(average(2, "prob"), sure, barred)[0] > -math.inf


def test_what_a_weak_stream_cannot_say_is_no_reason_to_say_it() -> None:
    weak = np.array([0.0, -math.inf, -1.0, -2.0])
    found = mixed(contrast(1.0, 0.0), STRONG, weak)
    assert np.isfinite(found).all()
    assert found[1] == mixed(contrast(1.0, 0.0), STRONG, np.array([0.0, -2.0, -1.0, -2.0]))[1]


def test_negative_sums_of_probabilities_are_none() -> None:
    found = combine([STRONG, WEAK], (1.0, -1.0), Mix("prob", 0.0))
    assert found[0] == -math.inf
    assert np.isfinite(found[1])


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, 1), (0.65, 2), (0.9, 3), (1.0, 4)])
def test_the_nucleus_is_the_fewest_that_hold_it(top_p: float, kept: int) -> None:
    scores = np.log(np.array([[0.1, 0.5, 0.25, 0.15], [0.5, 0.25, 0.15, 0.1]]))
    assert plausible(scores, 0.0, top_p).sum(axis=-1).tolist() == [kept, kept]
    assert plausible(scores, 0.0, top_p)[0, 1]


def test_dexperts_and_proxy_tuning_add_what_tuning_changed() -> None:
    large, raw, tuned = np.zeros(4), np.zeros(4), np.array([0.0, 0.0, 3.0, 0.0])
    assert mixed(proxy(), large, tuned, raw).tolist() == [0.0, 0.0, 3.0, 0.0]
    assert mixed(experts(2.0, 1.0), large, tuned, raw).tolist() == [0.0, 0.0, 6.0, 0.0]
    assert top_bottom(4, 2, 0.5)[0] == (1.5, 0.5, -0.5, -0.5)


def test_rows_are_combined_each_for_itself() -> None:
    strong, weak = np.stack([STRONG, WEAK]), np.stack([WEAK, STRONG])
    rows = mixed(contrast(), strong, weak)
    assert [row.tolist() for row in rows] == [
        mixed(contrast(), *pair).tolist() for pair in ((STRONG, WEAK), (WEAK, STRONG))
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: combine([STRONG], (1.0, 2.0), Mix()), "1 streams and 2 weights"),
        (lambda: combine([STRONG, WEAK[:2]], (1.0, 2.0), Mix()), r"shapes \(4,\), \(2,\)"),
        (lambda: top_bottom(3, 2), "at most 1"),
        (lambda: average(2, weights=(1.0, -1.0)), "none below 0"),
        (lambda: average(2, weights=(1.0,)), "as many weights"),
    ],
)
def test_what_means_nothing_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        wrong()


@pytest.mark.parametrize("wrong", [{"alpha": 1.5}, {"alpha": -0.1}, {"top_p": 0.0}, {"mask_from": 2}])
def test_a_mix_of_impossible_numbers_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        Request("q", (Stream("a", "x"), Stream("a", "y", weight=-0.5)), mix=Mix(**wrong))


@pytest.mark.vllm
def test_torch_says_what_numpy_says(tmp_path: Path) -> None:
    """In the interpreter that has torch, with the package's folder alone: what a process of vLLM's sees."""
    script = f"""
import sys, types
import numpy as np, torch
package = types.ModuleType("composer"); package.__path__ = [{str(Path(sys.modules["composer"].__path__[0]))!r}]
sys.modules["composer"] = package
from composer.decoding.combine import combine
from composer.types import Mix
rng = np.random.default_rng(0)
for space in ("logprob", "logit", "prob"):
    for mix in (Mix(space, 0.0), Mix(space, 0.1, 1), Mix(space, 0.0, 2, 0.7)):
        streams = rng.normal(0, 3, (3, 5, 50)).astype(np.float32)
        streams[1, :, 7] = -np.inf
        ours = combine(list(streams), (1.5, -0.5, 0.25), mix)
        theirs = combine([torch.from_numpy(one) for one in streams], (1.5, -0.5, 0.25), mix).numpy()
        assert ours.dtype == theirs.dtype == np.float32, (ours.dtype, theirs.dtype)
        assert np.array_equal(np.isinf(ours), np.isinf(theirs)), mix
        assert np.allclose(ours[np.isfinite(ours)], theirs[np.isfinite(theirs)], atol=1e-4), mix
print("equal")
"""
    done = subprocess.run(
        [os.environ["COE_VLLM"], "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "equal", done.stderr
