"""How far answers are to be believed: alarms per expert and domain, and drafts that speak of something else."""

from __future__ import annotations

import numpy as np
import pytest

from composer.answers.signals import Sureness
from composer.answers.trust import Content, Trust, dissociated
from routers.testing import HashEncoder, simulate


def test_an_expert_that_is_sure_and_wrong_in_one_domain_raises_one_alarm() -> None:
    rng = np.random.default_rng(0)
    n = 400
    arm = ["law" if i % 2 else "sums" for i in range(n)]
    domain = ["tax" if i % 4 < 2 else "contracts" for i in range(n)]
    sure = np.full(n, 0.8)
    loose = np.array([(a, d) == ("law", "tax") for a, d in zip(arm, domain, strict=True)])
    right = (rng.random(n) < np.where(loose, 0.4, 0.8)).astype(float)

    [alarm] = dissociated(arm, domain, sure, right)

    assert (alarm.arm, alarm.domain, alarm.questions) == ("law", "tax", 100)
    assert alarm.excess == pytest.approx(0.4, abs=0.12)
    assert 0.1 < alarm.low < alarm.excess


def test_only_the_window_counts_so_that_an_alarm_ends() -> None:
    sure, right = np.full(300, 0.8), np.concatenate([np.zeros(200), np.ones(100)])
    cell = ["law"] * 300, ["tax"] * 300

    assert dissociated(*cell, sure, right, window=200)
    assert not dissociated(*cell, sure, right, window=100)


def test_few_answers_and_unknown_domains_say_nothing() -> None:
    assert not dissociated(["law"] * 19, ["tax"] * 19, np.ones(19), np.zeros(19))
    assert not dissociated(["law"] * 50, [None] * 50, np.ones(50), np.zeros(50))
    assert not dissociated([None] * 50, ["tax"] * 50, np.ones(50), np.zeros(50))


def test_a_text_of_another_domain_is_told_and_one_of_its_own_is_not() -> None:
    questions, _ = simulate(300)
    content = Content().fit(questions)
    texts = ["stir the onion soup with salt in the oven", "the anchor rope and the mast of the boat"]
    vectors = HashEncoder().encode(texts)

    assert all(content.speaks(text) for text in texts)
    assert content.off(vectors, ["cooking", "cooking"]) == [False, True]
    assert content.off(vectors, ["sailing", "sailing"]) == [True, False]
    assert content.off(vectors, [None, None]) == [False, False]


def test_two_domains_are_told_apart_too() -> None:
    questions, _ = simulate(200, skills=("cooking", "sailing"))
    content = Content().fit(questions)

    assert content.off(HashEncoder().encode(["rope mast boat anchor sail deck"]), ["cooking"]) == [True]


def test_a_number_is_of_no_domain_and_one_domain_is_none() -> None:
    questions, _ = simulate(60)
    single, _ = simulate(60, skills=("cooking",))

    assert not Content().fit(questions).speaks("23 + 48 = 71")
    assert not Content().fit(single).speaks("stir the onion soup with salt in the oven")


def test_trust_knows_which_cells_are_loose() -> None:
    found = dissociated(["law"] * 50, ["tax"] * 50, np.ones(50), np.zeros(50))

    trust = Trust(Sureness(), found, Content(), 50)

    assert trust.loose("law", "tax")
    assert not trust.loose("law", "contracts") and not trust.loose("sums", "tax") and not trust.loose("law", None)
