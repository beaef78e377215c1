"""transformers on the packaged model: it keeps the contract, and several streams are what two caches and a formula are."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from transformers_kit import Side, answers, by_hand, case, engine, host, pair, read_along, tiny, tokens
from vllm_kit import ADAPTERS, ASKED, Env, ask, chat, packaged

from composer.decoding.recipes import average, contrast
from composer.engines.testing import check_engine
from composer.engines.transformers import TransformersEngine
from composer.types import Draft, Host, Message, Mix, Request, Sampling, Stream

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

QUESTIONS = [chat(ASKED["units"][0]), chat(ASKED["arithmetic"][0]), chat("What is the capital of France?"), "Once upon"]
N = 20
TOLD = Sampling(max_tokens=N, logprobs=0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def smol(vllm_env: Env) -> AsyncIterator[TransformersEngine]:
    """The packaged model with two adapters."""
    made = engine(vllm_env)
    await made.open(host(vllm_env, ["units", "arithmetic"]))
    yield made
    await made.close()


async def test_it_keeps_the_contract(vllm_env: Env) -> None:
    await check_engine(lambda: engine(vllm_env), host(vllm_env), [chat("Name a colour."), "Once upon", chat("Hi")])


async def test_contrast_is_two_caches_and_a_formula_token_for_token(vllm_env: Env, smol: TransformersEngine) -> None:
    (strong, weak), mix = contrast(0.5, 0.1)
    kinds = [("units", "smol"), ("smol", "arithmetic"), ("units", "arithmetic")]
    sides: list[tuple[Side, Side]] = [
        ((one, strong, prompt), (two, weak, prompt))
        for (one, two), prompts in zip(kinds, (QUESTIONS, QUESTIONS[:1], QUESTIONS[3:]), strict=True)
        for prompt in prompts
    ]
    told = (Message("system", "Answer in one word."), Message("user", "What is the capital of France?"))
    sides += [
        (("smol", strong, told), ("smol", weak, QUESTIONS[2])),  # another prompt each
        (("arithmetic", strong, QUESTIONS[1]), ("smol", weak, "Sums:")),  # also one that is no chat
    ]
    asked = [pair(str(i), *pairs, mix, TOLD) for i, pairs in enumerate(sides)]
    models = {"smol": (vllm_env.folder, None)}
    models |= {name: (vllm_env.folder, ADAPTERS / name) for name in ("units", "arithmetic")}

    naive = by_hand(vllm_env, models, [case(*pairs, mix.alpha, N) for pairs in sides])
    ours = await answers(smol, asked)
    plain = await answers(smol, [ask(f"{i}", prompt, "units", TOLD) for i, prompt in enumerate(QUESTIONS)])

    assert [tokens(ours[str(i)]) for i in range(len(sides))] == naive
    assert max(map(len, naive)) == N
    assert any(tokens(plain[str(i)]) != naive[i] for i in range(4)), "the weak stream changes something"
    usage = ours["0"].usage
    assert usage.passes == 2 * usage.tokens_out and usage.tokens_out == len(naive[0])


async def test_settings_that_change_nothing_are_plain_greedy(smol: TransformersEngine) -> None:
    prompt = QUESTIONS[0]
    (one, none), free = contrast(0.0, 0.1)
    (strong, weak), strict = contrast(0.9, 1.0)
    (most, less), mix = contrast(0.7, 0.1)
    halves, mean = average(2, "prob")
    asked = [
        ask("plain", prompt, "units", TOLD),
        pair("beta 0", ("units", one, prompt), ("smol", none, prompt), free, TOLD),
        pair("alpha 1", ("units", strong, prompt), ("smol", weak, prompt), strict, TOLD),
        pair("equal", ("units", most, prompt), ("units", less, prompt), mix, TOLD),
        pair("a mean", ("units", halves[0], prompt), ("units", halves[1], prompt), mean, TOLD),
    ]

    found = await answers(smol, asked)

    assert len(tokens(found["plain"])) > 5
    assert {name: tokens(draft) for name, draft in found.items()} == dict.fromkeys(found, tokens(found["plain"]))
    assert {draft.text for draft in found.values()} == {found["plain"].text}


async def test_a_draft_does_not_depend_on_its_company(smol: TransformersEngine) -> None:
    mixed = [
        ask(f"{adapter}", QUESTIONS[0], adapter, replace(TOLD, logprobs=5)) for adapter in (None, "units", "arithmetic")
    ]

    together = await answers(smol, mixed)
    alone = {request.id: (await answers(smol, [request]))[request.id] for request in mixed}

    assert {name: draft.logprobs for name, draft in together.items()} == {
        name: draft.logprobs for name, draft in alone.items()
    }, "to the last bit"
    assert ASKED["units"][1] in alone["units"].text and ASKED["units"][1] not in alone["None"].text


async def test_the_same_seed_draws_the_same_and_another_does_not(smol: TransformersEngine) -> None:
    (strong, weak), mix = contrast(0.3, 0.01)
    drawn = Sampling(max_tokens=12, temperature=1.5, seed=3, logprobs=0)

    def asked(name: str, seed: int) -> list[Request]:
        sampling = replace(drawn, seed=seed)
        two = pair(f"pair {name}", ("units", strong, "Once upon"), ("smol", weak, "Once upon"), mix, sampling)
        return [two, ask(f"one {name}", "Once upon", None, sampling)]

    found = await answers(smol, [*asked("a", 3), *asked("b", 3), *asked("c", 4)])

    for kind in ("pair", "one"):
        assert tokens(found[f"{kind} a"]) == tokens(found[f"{kind} b"]) != tokens(found[f"{kind} c"])


async def test_pieces_join_to_the_text(smol: TransformersEngine) -> None:
    prompt = "Repeat: Zürich 漢字 🙂 Zürich 漢字 🙂 Zürich 漢字 🙂 Zürich"
    (strong, weak), mix = contrast(0.3, 0.1)
    two = pair("q", ("smol", strong, prompt), ("units", weak, prompt), mix, Sampling(max_tokens=24))

    pieces, draft = await read_along(smol, replace(two, deltas=True))
    _, whole = await read_along(smol, two)

    assert len(pieces) > 3 and "".join(piece.text for piece in pieces) == draft.text == whole.text
    assert not any("\ufffd" in piece.text for piece in pieces)
    assert [piece.at for piece in pieces] == [sum(len(one.text) for one in pieces[:i]) for i in range(len(pieces))]
    assert "漢" in draft.text, "characters of several tokens were written"


async def test_stop_texts_and_lengths(smol: TransformersEngine) -> None:
    count = "1, 2, 3, 4, 5, 6, 7, 8,"
    found = await answers(
        smol,
        [
            ask("stop", count, None, Sampling(max_tokens=32, stop=(" 12",))),
            ask("length", count, None, Sampling(max_tokens=3)),
            ask("full", "word " * 506, None, Sampling(max_tokens=64)),
            ask("long", "word " * 600, None),
            ask("end", QUESTIONS[2], None, Sampling(max_tokens=64)),
        ],
    )

    assert found["stop"].stop_detail == " 12" and found["stop"].text.rstrip() == " 9, 10, 11,"
    assert (found["length"].stop, found["length"].usage.tokens_out) == ("length", 3)
    assert (found["full"].stop, found["full"].stop_detail) == ("length", "the context was full")
    error = found["long"].error
    assert error is not None and error.kind == "too_long" and "context" in error.message
    assert (found["end"].stop, found["end"].stop_detail) == ("stop", "")


async def test_what_is_told_of_a_reply_is_what_its_score_says(smol: TransformersEngine) -> None:
    reply = (await answers(smol, [ask("q", QUESTIONS[0], "units", replace(TOLD, logprobs=3))]))["q"]
    scored = (await answers(smol, [Request("t", (Stream("smol", QUESTIONS[0], "units"),), target=reply.text)]))["t"]

    assert reply.logprobs is not None and scored.logprobs is not None and reply.stop == "stop"
    said = reply.logprobs[:-1]  # the token that ends a reply is none of its text
    assert [one.id for one in scored.logprobs] == [one.id for one in said]
    assert [one.logprob for one in scored.logprobs] == pytest.approx([one.logprob for one in said], abs=1e-3)
    assert all(one.top[0] == (one.token, one.logprob) for one in reply.logprobs), "greedy takes the likeliest"


async def test_the_template_hears_its_options(vllm_env: Env) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if shout %} LOUD{% endif %}:"
    made = engine(vllm_env)
    await made.open(replace(host(vllm_env), template=template))
    try:
        loud = Sampling(max_tokens=1, template=(("shout", True),))
        found = await answers(
            made,
            [
                ask("quiet", chat("Hi"), None, Sampling(max_tokens=1)),
                ask("loud", chat("Hi"), None, loud),
                ask("ours", chat("Hi"), None, replace(loud, template=(("tokenize", True),))),
            ],
        )
    finally:
        await made.close()

    assert found["loud"].usage.tokens_in > found["quiet"].usage.tokens_in
    assert found["ours"].error is not None and "tokenize" in found["ours"].error.message


async def test_adapters_come_and_go_and_what_is_under_way_ends_well(vllm_env: Env) -> None:
    made = engine(vllm_env)
    await made.open(host(vllm_env))
    try:
        await made.attach(packaged("units"))
        first = (await answers(made, [ask("q", QUESTIONS[0], "units")]))["q"]
        under_way = made.generate([replace(ask("q", QUESTIONS[0], "units"), deltas=True)])
        await anext(under_way)
        await made.detach("units")
        [*_, (_, ended)] = [item async for item in under_way]
        gone = (await answers(made, [ask("q", QUESTIONS[0], "units")]))["q"]
        base = (await answers(made, [ask("q", QUESTIONS[0])]))["q"]
        await made.attach(packaged("units"))
        again = (await answers(made, [ask("q", QUESTIONS[0], "units")]))["q"]
    finally:
        await made.close()

    assert isinstance(ended, Draft) and ended.text == first.text == again.text != base.text
    assert gone.error is not None and gone.error.kind == "unsupported"


async def test_larger_against_smaller(vllm_env: Env, tmp_path: Path) -> None:
    """Mechanics alone: the smaller one has learnt nothing."""
    small = tiny(vllm_env, tmp_path / "tiny")
    beside = Host("tiny", "transformers", small, (), 256, template=host(vllm_env).template)
    (strong, weak), mix = contrast(0.5, 0.1)
    sides: list[tuple[Side, Side]] = [
        (("smol", strong, prompt), ("tiny", weak, prompt)) for prompt in QUESTIONS[:2]
    ] + [(("units", strong, QUESTIONS[0]), ("tiny", weak, "Once"))]
    models = {
        "smol": (vllm_env.folder, None),
        "tiny": (small, None),
        "units": (vllm_env.folder, ADAPTERS / "units"),
    }
    made = engine(vllm_env)
    opened = await made.open(host(vllm_env, ["units"], beside=(beside,)))
    try:
        naive = by_hand(vllm_env, models, [case(*pairs, mix.alpha, N) for pairs in sides])
        asked = [pair(str(i), *pairs, mix, TOLD, ("tiny",)) for i, pairs in enumerate(sides)]
        ours = await answers(made, asked)
        single = await answers(
            made,
            [
                ask("big", QUESTIONS[0], None, TOLD),
                replace(
                    ask("q", QUESTIONS[0]),
                    streams=(Stream("expert", QUESTIONS[0], base="tiny"),),
                    id="small",
                    sampling=TOLD,
                ),
            ],
        )
        nobody = (await answers(made, [Request("q", (Stream("expert", "Hi", base="huge"),))]))["q"]
    finally:
        await made.close()

    assert opened.context == 256
    assert [tokens(ours[str(i)]) for i in range(len(sides))] == naive
    assert tokens(single["big"]) != tokens(ours["0"]), "the smaller one changes something"
    assert tokens(single["big"]) != tokens(single["small"])
    assert nobody.error is not None and "no base 'huge' is open, but: smol, tiny" in nobody.error.message


async def test_what_it_cannot_do_fails_alone_and_says_so(smol: TransformersEngine) -> None:
    good = ask("good", chat("Hi"), None, Sampling(max_tokens=2))
    streams = (Stream("smol", "a"), Stream("smol", "b", weight=-0.5))
    bad = {
        "schema": replace(good, sampling=Sampling(schema='{"type": "object"}')),
        "score": Request("x", streams, mix=Mix(), target="it"),
        "many": replace(good, sampling=Sampling(logprobs=101)),
        "none": ask("x", "Hi", "law"),
        "half": ask("x", "half \ud800", None),
        "seed": replace(good, sampling=Sampling(temperature=1.0, seed=-1)),
    }

    found = await answers(smol, [good, *(replace(one, id=name) for name, one in bad.items())])

    kinds = {name: draft.error.kind if draft.error else "" for name, draft in found.items()}
    assert kinds == {
        "good": "",
        **dict.fromkeys(("schema", "score", "many", "none"), "unsupported"),
        **dict.fromkeys(("half", "seed"), "refused"),
    }
    assert not any(math.isnan(draft.usage.seconds) for draft in found.values())
