"""What the process of the transformers engine makes of the lines that come in, with models that nobody computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from composer.engines.transformers_child import Loop

BODY = {"max_tokens": 3, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "seed": 0}


@dataclass
class Source:
    """Scores that count up from the last token; a stream that begins with 66 has none."""

    base: Base
    adapter: str | None
    prompt: Sequence[int]

    @property
    def place(self) -> tuple[str, str]:
        return self.base.name, self.adapter or ""

    def next(self, tokens: Sequence[int]) -> Any:
        if self.prompt[0] == 66:
            raise RuntimeError("memory is short")
        self.base.asked.append((self.adapter, tuple(tokens)))
        scores = np.zeros(128, np.float32)
        scores[tokens[-1] + 1] = 9.0
        return scores


@dataclass
class Base:
    """A base whose tokens are characters."""

    name: str = "smol"
    context: int = 8
    ends: frozenset[int] = frozenset()
    adapters: list[str] = field(default_factory=list)
    asked: list[tuple[str | None, tuple[int, ...]]] = field(default_factory=list)
    weak: list[bool] = field(default_factory=list)

    def read(self, asked: Mapping[str, Any], options: Mapping[str, Any]) -> list[int]:
        return [ord(one) for one in asked["prompt"]]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(map(chr, tokens))

    def spell(self, token: int) -> str:
        return chr(token)

    def stream(self, adapter: str | None, prompt: Sequence[int], *, weak: bool = False) -> Source:
        self.weak.append(weak)
        return Source(self, adapter, prompt)

    def attach(self, name: str, folder: Path) -> None:
        if folder.name == "bad":
            raise ValueError("5 of its tensors are not the model's")
        self.adapters.append(name)

    def detach(self, name: str) -> None:
        self.adapters.remove(name)


def loop() -> tuple[Loop, Any]:
    base: Any = Base()
    return Loop({"smol": base}, {"smol": ("smol", None)}), base


def ask(name: str, prompt: str, model: str = "smol", **more: Any) -> dict[str, Any]:
    return {"id": name, "chat": False, "body": {**BODY, "model": model, "prompt": prompt, **more}}


def load(name: str, folder: str = "good") -> dict[str, Any]:
    return {"id": "l", "load": {"name": name, "path": folder, "base": "smol"}}


def told(loop: Loop, line: dict[str, Any], steps: int = 0) -> list[dict[str, Any]]:
    return [*loop.take(line), *(event for _ in range(steps) for event in loop.step())]


def test_what_fails_fails_alone() -> None:
    asked, _ = loop()

    first = told(asked, {"ask": [ask("a", "A"), ask("bad", "B"), ask("nobody", "A", "law"), ask("none", "")]})
    found = {event["id"]: event for event in told(asked, {}, 3)}

    assert [(event["id"], event["status"]) for event in first] == [("nobody", 400), ("none", 400)]
    assert found["bad"]["error"] == {"message": "memory is short"}
    assert found["a"]["choices"][0]["text"] == "BCD" and asked.rows == {}


def test_a_prompt_without_room_for_an_answer_is_told_by_numbers() -> None:
    asked, _ = loop()

    [event] = told(asked, {"ask": [ask("long", "A" * 8)]})
    fits = told(asked, {"ask": [ask("fits", "A" * 7)]}, 1)

    assert (event["error"]["n_prompt_tokens"], event["error"]["n_ctx"]) == (8, 8)
    assert fits[0]["choices"][0]["finish_reason"] == "length"


def test_who_is_dropped_costs_nothing_more() -> None:
    asked, base = loop()
    told(asked, {"ask": [ask("a", "A"), ask("b", "M")]}, 1)
    base.asked.clear()

    told(asked, {"drop": ["a", "never"]}, 1)

    assert base.asked == [(None, (ord("N"),))]


def test_equal_adapters_are_next_to_each_other_in_a_step() -> None:
    asked, base = loop()
    for name in ("x", "y"):
        told(asked, load(name))

    told(asked, {"ask": [ask(str(i), "A", name) for i, name in enumerate(("y", "smol", "x", "y", "smol"))]}, 1)

    assert [adapter for adapter, _ in base.asked] == [None, None, "x", "y", "y"]


def test_an_adapter_goes_when_nobody_is_served_by_it() -> None:
    asked, base = loop()
    told(asked, load("law@1.5"))
    told(asked, {"ask": [ask("a", "A", "law@1.5")]}, 1)

    told(asked, {"id": "u", "unload": "law@1.5"})
    during = list(base.adapters), told(asked, {"ask": [ask("late", "A", "law@1.5")]})
    told(asked, {}, 2)

    assert during[0] == ["law@1_5"] and during[1][0]["status"] == 400
    assert base.adapters == []


def test_an_adapter_that_comes_back_before_it_is_gone_stays() -> None:
    asked, base = loop()
    told(asked, load("law"))
    told(asked, {"ask": [ask("a", "A", "law")]}, 1)
    told(asked, {"id": "u", "unload": "law"})

    [again] = told(asked, load("law"))
    told(asked, {}, 3)

    assert again == {"id": "l", "done": {}} and base.adapters == ["law"]
    [state] = told(asked, {"id": "s", "state": True})
    assert state["done"] == {"names": ["smol", "law"], "context": 8, "running": 0}


def test_an_adapter_that_is_refused_says_why() -> None:
    asked, _ = loop()

    [event] = told(asked, load("law", "bad"))

    assert event["status"] == 400 and "not the model's" in event["error"]["message"] and "law" not in asked.names


def test_streams_are_combined_as_the_mix_says() -> None:
    asked, base = loop()
    told(asked, load("law"))
    parts = [{"model": "law", "weight": 1.5, "prompt": "A"}, {"model": "smol", "weight": -0.5, "prompt": "MN"}]
    parts[1]["routing"] = "weak"
    mix = {"space": "logit", "alpha": 0.1, "mask_from": 0, "top_p": 1.0}

    [last] = told(asked, {"ask": [{**ask("two", "A"), "streams": parts, "mix": mix}]}, 3)

    assert base.asked[:4] == [(None, (77, 78)), ("law", (65,)), (None, (66,)), ("law", (66,))]
    assert last["choices"][0]["text"] == "BCD" and last["usage"]["prompt_tokens"] == 3 and last["passes"] == 6
    assert base.weak == [False, True]
