"""Cascades on stored outcomes, and AutoMix's decisions (simulations)."""

from __future__ import annotations

import numpy as np
import pytest

from routers.cascade import Chain, MetaVerifier, benefit_per_cost, dispersion, find_chains
from routers.errors import RouterError
from routers.types import Arm

ARMS = [Arm("small", 1.0), Arm("middle", 5.0), Arm("large", 20.0)]


def stored(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, right and cost [n, 3]: hard questions are hard for all, for the large arm least."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n)
    right = np.stack([rng.random(n) < 1 - hard * share for share in (1.0, 0.6, 0.2)], axis=1).astype(float)
    confidence = np.stack([1 - hard * share for share in (1.0, 0.6, 0.2)], axis=1)
    return confidence, right, np.tile([arm.price for arm in ARMS], (n, 1))


def test_chains_trade_cost_for_accuracy_and_beat_random_deferral() -> None:
    confidence, right, cost = stored()

    chains = find_chains(confidence, right, cost, ARMS)

    assert (np.diff([chain.cost for chain in chains]) > 0).all()
    assert (np.diff([chain.accuracy for chain in chains]) > 0).all()
    small, large = right.mean(axis=0)[[0, 2]]
    two = [chain for chain in chains if chain.arms == ("small", "large")]
    assert two
    for chain in two:
        at_random = small + (chain.calls - 1) * (large - small)
        assert chain.accuracy > at_random


def test_what_a_chain_promises_is_what_playing_it_gives() -> None:
    confidence, right, cost = stored()
    for chain in find_chains(confidence, right, cost, ARMS)[::5]:
        stage = chain.taken(confidence, ARMS)
        places = np.array([[arm.name for arm in ARMS].index(name) for name in chain.arms])

        paid = [cost[row, places[: last + 1]].sum() for row, last in enumerate(stage)]

        assert right[np.arange(len(stage)), places[stage]].mean() == pytest.approx(chain.accuracy)
        assert np.mean(paid) == pytest.approx(chain.cost)
        assert stage.mean() + 1 == pytest.approx(chain.calls)


def test_each_threshold_is_taken_from_the_questions_that_reach_its_stage() -> None:
    confidence, right, cost = stored()
    found = [chain for chain in find_chains(confidence, right, cost, ARMS) if len(chain.arms) == 3]

    for chain in found:
        reached = confidence[confidence[:, 0] < chain.thresholds[0], 1]
        assert reached.min() <= chain.thresholds[1] <= reached.max()


def test_an_unknown_cost_is_refused() -> None:
    confidence, right, cost = stored(20)
    cost[0, 0] = np.nan
    with pytest.raises(RouterError, match="cost is unknown"):
        find_chains(confidence, right, cost, ARMS)


def test_the_last_answer_is_always_accepted() -> None:
    assert Chain(("small", "large"), (0.5,)).taken(np.array([[0.1, 0, 0], [0.9, 0, 0]]), ARMS).tolist() == [1, 0]


@pytest.mark.parametrize("kind", ["threshold", "double", "gain", "pomdp"])
def test_help_goes_where_it_helps(kind: str) -> None:
    """Low v: hopeless (neither arm is right); middle: the large one helps; high: the small one is right."""
    rng = np.random.default_rng(0)
    v = rng.random(4000)
    small = (v > 0.66).astype(float)
    large = (v > 0.33).astype(float)

    verifier = MetaVerifier(kind, price=0.2).fit(v, small, large)  # type: ignore[arg-type]
    sent = verifier.escalate(np.array([0.05, 0.5, 0.95]))

    assert sent[1] and not sent[2]
    assert bool(sent[0]) == (kind == "threshold")  # one threshold cannot leave out the hopeless
    with pytest.raises(RouterError, match="not been fitted"):
        MetaVerifier().escalate(v)


def test_help_is_held_back_by_losses_under_gain_and_by_the_hopeless_alone_under_pomdp() -> None:
    """One bin: of ten questions three need help, three are lost to the large arm, four are hopeless."""
    v = np.full(1000, 0.5)
    small = np.tile([0, 0, 0, 1, 1, 1, 0, 0, 0, 0], 100).astype(float)
    large = np.tile([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 100).astype(float)

    def sent(kind: str, price: float) -> bool:
        return bool(MetaVerifier(kind, price=price).fit(v, small, large).escalate(v[:1])[0])  # type: ignore[arg-type]

    assert (sent("gain", 0.29), sent("pomdp", 0.29), sent("pomdp", 0.31)) == (False, True, False)


@pytest.mark.parametrize("kind", ["threshold", "double"])
def test_no_other_cut_is_worth_more(kind: str) -> None:
    rng = np.random.default_rng(1)
    v = rng.random(300)
    small, large = (rng.random(300) < v).astype(float), (rng.random(300) < 0.6).astype(float)
    verifier = MetaVerifier(kind, bins=5, price=0.1).fit(v, small, large)  # type: ignore[arg-type]

    def worth(sent: np.ndarray) -> float:
        return float((large - small - 0.1)[sent].sum())

    place = np.floor(v * 5)
    lows = [0] if kind == "threshold" else list(range(6))
    every = [worth((place >= low) & (place < high)) for low in lows for high in range(low, 6)]
    assert worth(verifier.escalate(v)) == pytest.approx(max(every))


def test_dispersion_is_that_of_mowst() -> None:
    by_variance, by_entropy = dispersion(np.array([[0.7, 0.1, 0.1, 0.1], [0.25] * 4, [0.0, 1.0, 0.0, 0.0]]))

    assert by_variance == pytest.approx([0.36, 0.0, 1.0])
    assert by_entropy == pytest.approx([0.3216, 0.0, 1.0], abs=1e-4)
    with pytest.raises(RouterError, match="no dispersion"):
        dispersion(np.ones((2, 1)))


def test_benefit_per_cost_is_relative_to_going_large() -> None:
    own, lift = benefit_per_cost(0.8, 50.0, (0.5, 1.0), (0.8, 50.0))
    assert lift == pytest.approx(0.0)
    assert own == pytest.approx(0.3 / 49)
