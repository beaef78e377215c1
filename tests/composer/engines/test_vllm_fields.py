"""What vLLM is asked for, and what it cannot serve: before anything is sent."""

from __future__ import annotations

import pytest

from composer.engines.vllm import VllmEngine
from composer.engines.vllm_fields import unsupported
from composer.errors import EngineError
from composer.types import Host, Message, Mix, Request, Sampling, Stream

HOST = Host("smol", "vllm")
CHAT = (Message("user", "Hi"),)


def both(strong: Stream, weak: Stream, **sampling: float) -> Request:
    return Request("q", (strong, weak), Sampling(**sampling), mix=Mix())  # type: ignore[arg-type]


PAIR = both(Stream("smol", CHAT, "law"), Stream("smol", CHAT, weight=-0.5))


def test_several_streams_are_decoded_in_process_alone() -> None:
    assert unsupported(PAIR, HOST, ["law"], 0, contrast=True) is None
    refused = unsupported(PAIR, HOST, ["law"], 0, contrast=False)
    assert refused is not None and "in_process: true" in refused


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (both(Stream("smol", CHAT), Stream("smol", CHAT, "math", -0.5)), "'math' is not attached"),
        (both(Stream("smol", CHAT), Stream("smol", CHAT, weight=-0.5), repetition_penalty=1.1), "repetition penalty"),
        (both(Stream("smol", CHAT), Stream("smol", "Hi", weight=-0.5)), "some of its streams"),
        (Request("q", PAIR.streams, mix=Mix(), target="So"), "no given text"),
    ],
)
def test_what_would_part_the_streams_is_refused(request_: Request, words: str) -> None:
    refused = unsupported(request_, HOST, ["law"], 0, contrast=True)

    assert refused is not None and words in refused


async def test_one_base_is_opened_and_not_several() -> None:
    with pytest.raises(EngineError, match="transformers"):
        await VllmEngine(in_process=True).open(Host("smol", "vllm", beside=(Host("big", "vllm"),)))
