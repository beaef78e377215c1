"""What the tests of the transformers engine share: hosts of it, a tiny model of the packaged one's vocabulary, and contrast
done by hand to compare with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_kit import TEMPLATE, Env, packaged

from composer.engines.transformers import TransformersEngine
from composer.types import Delta, Draft, Host, Mix, Prompt, Request, Sampling, Stream

BY_HAND = Path(__file__).with_name("two_caches.py")
TINY = """
import sys, torch, transformers
torch.manual_seed(7)
config = transformers.LlamaConfig(
    vocab_size=49152, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, eos_token_id=2, bos_token_id=1, initializer_range=0.2,
)
transformers.LlamaForCausalLM(config).save_pretrained(sys.argv[2])
transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""

Side = tuple[str, float, Prompt]
"""A stream: its adapter or base, its weight, its prompt."""


def engine(env: Env, **options: Any) -> TransformersEngine:
    return TransformersEngine(python=env.python, **options)


def host(env: Env, adapters: Sequence[str] = (), **more: Any) -> Host:
    """A host with the packaged adapters of these names."""
    return Host("smol", "transformers", env.folder, tuple(map(packaged, adapters)), 512, 8, template=TEMPLATE, **more)


def tiny(env: Env, folder: Path) -> Path:
    """A model of random numbers with the tokenizer of the packaged one."""
    run(env, "-c", TINY, str(env.folder), str(folder))
    return folder


def run(env: Env, *words: str) -> str:
    """What the interpreter that has torch says."""
    done = subprocess.run([env.python, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_hand(env: Env, models: dict[str, tuple[Path, Path | None]], cases: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The tokens of each case, with two caches and one formula."""
    told = {name: [str(folder), str(adapter) if adapter else None] for name, (folder, adapter) in models.items()}
    job = {"models": told, "template": TEMPLATE, "cases": cases}
    found: list[list[int]] = json.loads(run(env, str(BY_HAND), json.dumps(job)).splitlines()[-1])
    return found


def case(one: Side, two: Side, alpha: float, tokens: int) -> dict[str, Any]:
    """What `by_hand` is asked."""
    sides = [(name, weight, _plain(prompt)) for name, weight, prompt in (one, two)]
    return {"streams": sides, "alpha": alpha, "tokens": tokens}


def pair(name: str, one: Side, two: Side, mix: Mix, sampling: Sampling, beside: Sequence[str] = ()) -> Request:
    """The same, asked of the engine."""
    streams = tuple(
        Stream(
            side,
            prompt,
            None if side in ("smol", *beside) else side,
            weight,
            side if side in beside else None,
        )
        for side, weight, prompt in (one, two)
    )
    return Request(name, streams, sampling, mix=mix)


async def answers(engine: TransformersEngine, requests: Sequence[Request]) -> dict[str, Draft]:
    """Every draft by its request's name."""
    return {name: piece async for name, piece in engine.generate(requests) if isinstance(piece, Draft)}


async def read_along(engine: TransformersEngine, request: Request) -> tuple[list[Delta], Draft]:
    """The pieces of a request, and its draft."""
    pieces = [piece async for _, piece in engine.generate([request])]
    draft = pieces.pop()
    assert isinstance(draft, Draft)
    return [piece for piece in pieces if isinstance(piece, Delta)], draft


def tokens(draft: Draft) -> list[int | None]:
    """The ids of a draft that was asked for log-probabilities."""
    assert draft.error is None and draft.logprobs is not None, draft.error
    return [token.id for token in draft.logprobs]


def _plain(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt]
