"""The key of a draft: the sha256 of sorted JSON, and the same for ever, or every store would be worthless."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from hypothesis import given
from hypothesis import strategies as st

from composer.types import Fingerprint, Message, Mix, Prompt, Request, Sampling, Stream, draft_key

LOCAL = Fingerprint("w" * 64, None, "t", "p", "llamacpp 1", 2048)
REMOTE = Fingerprint(None, "a", None, None, "http", 0)
TEXTS = st.text(max_size=20)
PROMPTS: st.SearchStrategy[Prompt] = st.one_of(
    TEXTS, st.lists(st.builds(Message, st.sampled_from(["system", "user"]), TEXTS), max_size=3).map(tuple)
)


def test_keys_are_those_of_every_release() -> None:
    sampling = Sampling(
        max_tokens=8,
        temperature=0.7,
        seed=3,
        stop=("a", "b"),
        schema="{}",
        logprobs=2,
        template=(("think", False), ("n", 1)),
    )
    chat = (Message("system", "s"), Message("user", 'u\n"q"'))
    contrast = (Stream("e", "x"), Stream("g", "y", None, -0.5))

    assert [
        draft_key(Request("1", (Stream("e", "Größe \ud800?"),)), {"e": LOCAL}),
        draft_key(Request("2", (Stream("e", chat, "e"),), sampling, sample=3), {"e": LOCAL}),
        draft_key(Request("3", contrast, Sampling(temperature=0), mix=Mix(alpha=0.2)), {"e": LOCAL, "g": REMOTE}),
    ] == [
        "ced1550acb411f1ed5f3870f77294f1c21a0789089cdf2aa36bd712cce9c53d5",
        "58eccdb6a123926c0582da616360fa68ddd216c3b407efe18650607beae458ec",
        "b1cf8b2ae259014ddc377338c742cf903cb664318d8fff0a8cfd617aecc0c02c",
    ]


@given(PROMPTS, st.one_of(st.integers(0, 9), st.floats(0, 2)), TEXTS, st.one_of(st.none(), TEXTS))
def test_a_key_is_the_hash_of_sorted_json(prompt: Prompt, warmth: float, stop: str, schema: str | None) -> None:
    sampling = Sampling(temperature=warmth, stop=(stop,), schema=schema, template=(("x", stop), ("y", True)))
    request = Request("1", (Stream("e", prompt, "e"),), sampling)
    material = {
        "streams": [
            {
                "model": asdict(LOCAL),
                "prompt": prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt],
                "adapter": True,
                "weight": 1.0,
            }
        ],
        "sampling": asdict(sampling),
        "mix": None,
        "sample": 0,
    }
    text = json.dumps(material, sort_keys=True, separators=(",", ":"))

    assert draft_key(request, {"e": LOCAL}) == hashlib.sha256(text.encode()).hexdigest()


def test_equal_numbers_of_another_kind_are_another_key_whichever_comes_first() -> None:
    whole, point = (Request("1", (Stream("e", "x"),), Sampling(temperature=warmth)) for warmth in (0, 0.0))

    keys = [draft_key(request, {"e": replace(LOCAL)}) for request in (whole, point, whole, point)]

    assert keys[:2] == keys[2:] and keys[0] != keys[1]
