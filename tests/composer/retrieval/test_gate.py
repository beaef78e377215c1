"""Gates on a simulated corpus (METHODS D): it covers half of the topics, and misleads on the other half."""

from __future__ import annotations

import numpy as np
import pytest

from composer.errors import InputError
from composer.plugins import load
from composer.retrieval.choosing import BothWays, Costs, best, curve, earned, fit_all, gate_names, ratings, values_of
from composer.retrieval.gate import DRAFTED, Always, Gate, Never, Signals, Table, Threshold, Worth, opens
from composer.retrieval.testing import check_gate, simulate


def world(seed: int, n: int = 800) -> tuple[Signals, Table, Table]:
    both = simulate(n, seed)
    return both.signals, both.without, both.reading


@pytest.mark.parametrize("name", gate_names())
def test_every_gate_keeps_the_contract(name: str) -> None:
    check_gate(load("gates", name), name)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Gate]:
    signals, without, reading = world(1)
    gates = fit_all(BothWays(signals, without, reading))
    assert list(gates) == gate_names()
    return gates


def test_the_weighing_gate_beats_never_and_always_where_both_make_sense(fitted: dict[str, Gate]) -> None:
    both = BothWays(*world(2, n=3000))
    for cost in (0.05, 0.1, 0.2, 0.3):
        means = {name: float(earned(gate, both, Costs(cost), 1.0).mean()) for name, gate in fitted.items()}
        assert means["worth"] > max(means["never"], means["always"]) + 0.05, (cost, means)
        assert means["worth-drafts"] >= max(means.values()) - 0.02, (cost, means)
        unasked = [mean for name, mean in means.items() if not fitted[name].needs & set(DRAFTED)]
        assert means["worth"] >= max(unasked) - 0.02, (cost, means)


def test_every_gate_closes_where_reading_costs_more_than_it_can_bring(fitted: dict[str, Gate]) -> None:
    signals, _, _ = world(3)
    for name, gate in fitted.items():
        assert opens(gate, signals, cost=1.01).any() == (name == "always")


def test_no_gate_is_far_below_the_better_of_never_and_always(fitted: dict[str, Gate]) -> None:
    both = BothWays(*world(4, n=3000))
    for cost in np.linspace(0, 1, 11):
        means = {name: float(earned(gate, both, Costs(cost), 1.0).mean()) for name, gate in fitted.items()}
        assert min(means[name] for name in fitted if name not in ("never", "always")) > (
            max(means["never"], means["always"]) - 0.02
        ), (cost, means)


def test_what_a_gate_looks_at_is_paid_whether_it_opens_or_not(fitted: dict[str, Gate]) -> None:
    both = BothWays(*world(4))
    free = Costs(0.1)
    dear = Costs(0.1, {"entropy": 0.3, "margin": 0.05, "confidence": 0.07})
    for name, looking in {"worth": 0.0, "never": 0.0, "entropy": 0.3, "margin": 0.05, "worth-drafts": 0.37}.items():
        gap = earned(fitted[name], both, free, 1.0) - earned(fitted[name], both, dear, 1.0)
        assert gap == pytest.approx(looking), name
    assert best(ratings(fitted, both, free, values_of(free))) == "worth-drafts"
    assert best(ratings(fitted, both, dear, values_of(dear))) in ("worth", "neighbours"), "looking is not worth it"


def test_without_drafts_no_gate_that_needs_them_is_fitted() -> None:
    signals, without, reading = world(1)
    asked = Signals(signals.length, top=signals.top, gap=signals.gap, near=signals.near, vectors=signals.vectors)
    assert tuple(fit_all(BothWays(asked, without, reading))) == ("never", "always", "neighbours", "worth")


def test_probabilities_are_calibrated(fitted: dict[str, Gate]) -> None:
    signals, without, reading = world(5, n=4000)
    gate = fitted["worth"]
    assert isinstance(gate, Worth)
    for said, truth in zip(gate.probable(signals), (without, reading), strict=True):
        bins = np.minimum((said * 10).astype(int), 9)
        apart = [abs(said[bins == one].mean() - truth[bins == one].mean()) * (bins == one).mean() for one in set(bins)]
        assert sum(apart) < 0.06, "the expected calibration error"


def test_a_less_certain_draft_never_has_less_to_gain() -> None:
    signals, without, reading = world(6)
    gate = Threshold("margin").fit(signals, without, reading)
    order = np.argsort(-signals.column("margin"))
    assert (np.diff(gate.gain(signals)[order]) >= -1e-12).all()


def test_signals_that_nobody_looked_at_are_named() -> None:
    signals, without, reading = world(7)
    with pytest.raises(InputError, match="needs the signal 'entropy'"):
        Threshold("entropy").fit(Signals(signals.length), without, reading)
    few = Worth().fit(Signals(signals.length, top=signals.top), without, reading)
    assert np.isfinite(few.gain(Signals(signals.length, top=signals.top))).all()


def test_too_few_questions_are_told() -> None:
    signals, without, reading = world(8, n=19)
    with pytest.raises(InputError, match="19 questions were asked both ways, 20 are needed"):
        Worth().fit(signals, without, reading)


def test_what_is_always_right_or_always_wrong_can_be_learnt_from() -> None:
    signals, without, _ = world(9)
    gain = Worth().fit(signals, np.zeros(len(without)), np.ones(len(without))).gain(signals)
    assert (gain > 0.9).all()


def test_the_report_says_what_a_gate_saves_and_costs() -> None:
    signals, without, reading = world(10)
    both, costs = BothWays(signals, without, reading), Costs(0.1)
    (never,) = curve(Never(), both, costs, [2.0])
    (always,) = curve(Always(), both, costs, [2.0])
    assert (never.read, never.saved, never.right) == (0, 1, without.mean())
    assert (always.read, always.saved, always.right) == (1, 0, reading.mean())
    assert always.utility == pytest.approx(2 * reading.mean() - 0.1)
