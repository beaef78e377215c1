"""Strategies in the registry file: which arms they make, what is refused, and whose record is whose."""

from __future__ import annotations

from pathlib import Path

import pytest
from registry_texts import GENERAL, REGISTRY, Load, told

from composer.pipeline import Pipeline
from composer.registry.experts import Registry
from composer.settings.strategy import ASKS, Limits, StrategySpec, strategy_of
from composer.types import Message
from routers.prism import Prism

LAW = "    adapter: {path: law.gguf"


def text(strategies: str, of: str = "law") -> str:
    if of == "general":
        return REGISTRY.replace(GENERAL, f"general: {{model: small, strategies: {strategies}}}")
    return REGISTRY.replace(LAW, f"    strategies: {strategies}\n{LAW}")


def test_prose_alone_is_what_it_was(load: Load) -> None:
    assert list(load(text("[prose]")).arms) == list(load(REGISTRY).arms) == ["general", "law"]


def test_each_strategy_is_an_arm(load: Load) -> None:
    settings = load(text("[prose, code, {use: tool, ask: '', seconds: 0.5, memory: 8MiB}]"))

    assert list(settings.arms) == ["general", "law", "law@code", "law@tool"]
    assert [strategy_of(arm) for arm in settings.arms] == ["prose", "prose", "code", "tool"]
    assert settings.arms["law@code"].strategy == StrategySpec("code", ASKS["code"], Limits())
    assert settings.arms["law@tool"].strategy == StrategySpec("tool", "", Limits(0.5, 8 * 2**20))


def test_who_writes_programs_alone_is_no_arm_in_prose(load: Load) -> None:
    registry = Registry(load(text("[{use: code, ask: ''}]")))

    assert [arm.name for arm in registry.arms()] == ["general", "law@code"]
    assert registry.messages("law@code", "1 + 1?") == (Message("user", "1 + 1?"),)
    stream = registry.stream("law@code", "x")
    assert (stream.expert, stream.adapter, registry.host_of("law@code")) == ("law", "law", "small")


def test_such_an_expert_is_given_nothing_to_read_and_no_contrast(load: Load) -> None:
    more = "evidence:\n  manuals: {index: manuals}\ncontrasts:\n  base: {against: base}\n"
    both = load(text("[prose, code]").replace("pipeline:", f"{more}pipeline:"))
    assert list(both.arms) == [
        "general",
        "law",
        "law@code",
        "general+manuals",
        "law+manuals",
        "law~base",
        "law+manuals~base",
    ]
    assert Registry(both).variants("law") == ("law", "law+manuals")
    assert Registry(both).variants("law@code") == ("law@code",)

    named = more.replace("index: manuals}", "index: manuals, experts: [law]}")
    assert "programs alone" in told(load, text("[code]").replace("pipeline:", f"{named}pipeline:")).what
    arms = "contrasts:\n  base: {against: base, arms: [law@code]}\n"
    assert "has the strategy code" in told(load, text("[code]").replace("pipeline:", f"{arms}pipeline:")).what


@pytest.mark.parametrize(
    ("strategies", "what", "at"),
    [
        ("[]", "1 or more", "strategies"),
        ("[poem]", "'poem'", "strategies[0]"),
        ("[code, {use: code}]", "stands twice", "strategies[1]"),
        ("[{use: prose, ask: x}]", "prose has no options", "strategies[0]"),
        ("[prose, {use: code, ask: 3}]", "found 3", "strategies[1].ask"),
        ("[prose, {use: code, seconds: 0}]", "greater than 0", "strategies[1].seconds"),
        ("[prose, {use: code, memory: much}]", "no size", "strategies[1].memory"),
        ("[prose, {use: code, asks: x}]", "unknown key `asks`", "strategies[1].asks"),
    ],
)
def test_a_mistake_is_told_where_it_is(load: Load, strategies: str, what: str, at: str) -> None:
    error = told(load, text(strategies))

    assert what in error.what and at in (error.where or "")


def test_the_generalist_answers_in_prose(load: Load) -> None:
    declared = text("[code]", "general").replace("strategies", "generalist: true, strategies")
    assert "programs alone" in told(load, declared).what
    assert "generalist" in told(load, text("[code]", "general")).what, "nobody else can be it"


def test_who_writes_plans_has_no_strategy(load: Load) -> None:
    assert "writes plans" in told(load, text("[code]\n    writes: plans")).what


def test_a_record_belongs_to_what_was_asked(load: Load) -> None:
    prints = [
        Registry(load(text(f"[prose, {{use: code, ask: {ask}}}]"))).prints() for ask in ("''", "'Program:'", "''")
    ]

    assert prints[0]["law@code"] == prints[2]["law@code"] != prints[1]["law@code"]
    assert prints[0]["law"] == prints[1]["law"] == Registry(load(REGISTRY)).prints()["law"]
    assert prints[0]["law@code"] != prints[0]["law"]


def test_the_registry_of_the_docs_is_one(load: Load) -> None:
    page = (Path(__file__).parents[3] / "docs" / "strategies.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n")[1].split("```")[0]
    settings = load(REGISTRY.partition("experts:")[0].replace("small:", "smollm2:") + block)

    assert list(settings.arms) == ["general", "general@code", "general@tool", "coder@code"]
    pipeline = Pipeline(settings)  # its stages and their options are checked
    assert pipeline.registry.messages("coder@code", "1 + 1?") == (Message("user", "1 + 1?"),)
    thresholds = settings.pipeline[0].options["policy"]
    assert (thresholds["confidence"], thresholds["margin"]) == (Prism().confidence, Prism().margin)
