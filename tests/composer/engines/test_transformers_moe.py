"""Inside one mixture-of-experts model: its own weak routing as a stream, asked of the engine."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers_kit import answers, engine, run, tokens
from vllm_kit import Env, ask

from composer.decoding.recipes import contrast
from composer.types import Host, Request, Sampling, Stream

pytestmark = [pytest.mark.vllm]

MIXTRAL = """
import sys, torch, transformers
torch.manual_seed(11)
config = transformers.MixtralConfig(
    vocab_size=49152, hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=512, eos_token_id=2,
    bos_token_id=1, initializer_range=0.3,
)
transformers.MixtralForCausalLM(config).save_pretrained(sys.argv[2])
transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
"""
LIBRARY = """
import json, sys, types
package = types.ModuleType("composer")
package.__path__ = [sys.argv[3]]
sys.modules["composer"] = package
import torch, transformers
from composer.decoding.moe import check
from composer.decoding.scmoe import plain, scmoe
from composer.types import Sampling
torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
prompts = [tokenizer(text).input_ids for text in json.loads(sys.argv[2])]
moe, sampling = check(model), Sampling(max_tokens=16)
found = [scmoe(moe, [prompt], sampling, end={2}, beta=0.7) for prompt in prompts]
greedy = [plain(moe, [prompt], sampling, end={2}) for prompt in prompts]
print(json.dumps([[list(one.written[0].tokens) for one in each] for each in (found, greedy)]))
"""
TEXTS = ["Once upon a time", "The price of", "In the year", "2 + 2 ="]
TOLD = Sampling(max_tokens=16, logprobs=0)


def weak(name: str, text: str, beta: float) -> Request:
    (one, two), mix = contrast(beta)
    return Request(
        name, (Stream("moe", text, weight=one), Stream("moe", text, weight=two, routing="weak")), TOLD, mix=mix
    )


@pytest.mark.asyncio
async def test_the_weak_routing_is_what_the_library_decodes(vllm_env: Env, tmp_path: Path) -> None:
    folder = tmp_path / "moe"
    run(vllm_env, "-c", MIXTRAL, str(vllm_env.folder), str(folder))
    package = Path(__file__).parents[3] / "composer"
    told = run(vllm_env, "-c", LIBRARY, str(folder), json.dumps(TEXTS), str(package))
    by_library, greedy = json.loads(told.splitlines()[-1])
    made = engine(vllm_env)
    await made.open(Host("moe", "transformers", folder, context=128, slots=4, chat=False))
    try:
        found = await answers(made, [weak(f"{at}", text, 0.7) for at, text in enumerate(TEXTS)])
        still = await answers(made, [weak(f"{at}", text, 0.0) for at, text in enumerate(TEXTS)])
        plain = await answers(made, [replace(ask(f"{at}", text), sampling=TOLD) for at, text in enumerate(TEXTS)])
    finally:
        await made.close()

    assert [tokens(found[f"{at}"]) for at in range(4)] == by_library
    assert [tokens(still[f"{at}"]) for at in range(4)] == [tokens(plain[f"{at}"]) for at in range(4)] == greedy
    assert by_library != greedy, "the weak routing changes something"


@pytest.mark.asyncio
async def test_a_model_without_experts_refuses_it_and_serves_the_rest(vllm_env: Env) -> None:
    made = engine(vllm_env)
    await made.open(Host("moe", "transformers", vllm_env.folder, context=128, slots=4, chat=False))
    try:
        found = await answers(made, [weak("w", TEXTS[0], 0.5), replace(ask("p", TEXTS[0]), sampling=TOLD)])
        again = await answers(made, [weak("v", TEXTS[1], 0.5)])
    finally:
        await made.close()

    assert found["w"].error is not None and found["w"].error.kind == "refused"
    assert "no router of experts" in found["w"].error.message
    assert found["p"].error is None
    assert again["v"].error == found["w"].error, "what was seen once is remembered"
