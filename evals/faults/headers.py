"""Files of weights and adapters that are not what they say (R12, R13), and adapters of another base (R14)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from composer.config import PACKAGED, load_settings
from composer.engines.llamacpp import LlamaCppEngine
from composer.errors import ComposerError, ConfigError, EngineError, SourceError
from composer.registry.adapting import sha_of
from composer.registry.check import Check, check_experts
from composer.registry.experts import Registry
from composer.registry.gguf import read_header
from composer.registry.lora import Lora, Pair, load_lora, save_gguf, save_peft
from composer.registry.peft import CONFIG, WEIGHTS
from composer.registry.safetensors import load_arrays, save_arrays
from composer.registry.sources import fetch
from composer.settings.sources import PathSource
from composer.types import Host
from evals.faults.bench import Bench, Finding
from evals.faults.hosts import weights

_SLOW = 5.0  # seconds after which a check counts as hanging
_HANGS = 60.0  # and a load
_LOADED = 4  # one in so many mutants that pass our check is given to llama.cpp


def tiny_model(path: Path) -> Path:
    """A Llama of one layer and 300 tokens with random weights, small enough to be hit everywhere."""
    wide, inner, words = 32, 64, 300
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(wide)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    writer.add_token_list([*special, *(f"w{i}" for i in range(words - len(special)))])
    writer.add_token_scores([0.0] * words)
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (words - len(special))])
    shapes = {"token_embd": (words, wide), "output": (words, wide)}
    shapes |= {f"blk.0.attn_{name}": (wide, wide) for name in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (inner, wide), "blk.0.ffn_up": (inner, wide), "blk.0.ffn_down": (wide, inner)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(wide, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def mutant(whole: bytes, header: int, chance: random.Random) -> bytes:
    """`whole` with one thing broken, most often among its first `header` bytes."""
    raw, at = bytearray(whole), chance.randrange(header)
    kind = chance.randrange(7)
    if kind == 0:
        return bytes(raw[: chance.randrange(len(raw))])
    if kind == 1:
        raw[at] ^= 1 << chance.randrange(8)
    elif kind == 2:
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    elif kind == 3:  # a dimension, a count or a place that no file has
        huge = chance.choice([2**63, 2**64 - 1, 2**62, 2**32, 2**31 - 1, 2**40, 0])
        raw[at : at + 8] = struct.pack("<Q", huge)
    elif kind == 4:  # a piece twice
        piece = raw[at : at + chance.randrange(1, 120)]
        raw[at:at] = piece
    elif kind == 5:
        del raw[at : at + chance.randrange(1, 40)]
    else:
        raw[at : at + 4] = chance.randbytes(4)
    return bytes(raw) if bytes(raw) != whole else bytes(raw[:-1])


def broken_models(bench: Bench, mutants: int, seed: int = 12) -> Finding:
    """R12: our check in this process; some of what passes it in a real llama.cpp process; all of it against its pin."""
    chance, counts, folder = random.Random(seed), Counter[str](), bench.new("models")
    whole = tiny_model(folder / "whole.gguf").read_bytes()
    pin, header = hashlib.sha256(whole).hexdigest(), whole.rindex(b"blk.0.ffn_norm.weight") + 60
    asyncio.run(_opened(folder / "whole.gguf"))
    for i in range(mutants):
        path = folder / f"m{i}.gguf"
        path.write_bytes(mutant(whole, header, chance))
        passed = _watched(partial(read_header, path), counts)
        counts["accepted"] += passed
        if passed and counts["accepted"] % _LOADED == 1:
            counts["loaded"] += 1
            counts[asyncio.run(_tried(path))] += 1
        counts["pinned"] += _is_taken(path, pin)
        path.unlink()
    figure = (
        f"parent crashes {counts['crashed']}, hangs {counts['hung']}, accepted although pinned {counts['pinned']}; refused by "
        f"our check {mutants - counts['accepted']}; of {counts['loaded']} others given to llama.cpp {counts['opened']} opened, "
        f"{counts['refused']} were refused in its process"
    )
    promise = "own header check before any C++ sees it; load in a child; nothing but the pinned bytes"
    good = not (counts["crashed"] or counts["hung"] or counts["pinned"]) and counts["accepted"] < mutants / 2
    return Finding("R12", "corrupted GGUF", promise, figure, mutants, good)


def broken_adapters(bench: Bench, mutants: int, seed: int = 13) -> Finding:
    """R13: safetensors of a PEFT folder and GGUF adapters in turn, read whole; and headers as nobody writes them."""
    chance, counts, folder = random.Random(seed), Counter[str](), bench.new("adapters")
    rng = np.random.default_rng(seed)
    layers = {
        f"blk.{i}.ffn_up.weight": Pair(rng.normal(size=(4, 16)).astype("f4"), rng.normal(size=(24, 4)).astype("f4"))
        for i in (0, 1)
    }
    save_gguf(Lora(layers, gguf=True, base="owner/base"), folder / "whole.gguf", "llama")
    peft = folder / "peft"
    save_peft(Lora({f"model.{name}": pair for name, pair in layers.items()}, gguf=False, base="owner/base"), peft)
    kinds = (
        ((folder / "whole.gguf").read_bytes(), folder / "m.gguf", folder / "m.gguf"),
        ((peft / WEIGHTS).read_bytes(), peft / WEIGHTS, peft),
    )
    pins = (sha_of(folder / "whole.gguf"), sha_of(peft))
    for i in range(mutants):
        whole, path, adapter = kinds[i % 2]
        path.write_bytes(mutant(whole, len(whole) // 3, chance))
        counts["accepted"] += _watched(partial(load_lora, adapter), counts)
        counts["pinned"] += sha_of(adapter) == pins[i % 2]
    crafted = _crafted_headers()
    for content in crafted:
        (peft / WEIGHTS).write_bytes(content)
        counts["crafted"] += _watched(partial(load_lora, peft), counts)
    figure = (
        f"crashes {counts['crashed']}, hangs {counts['hung']}, accepted although pinned {counts['pinned']}; refused by our "
        f"check {mutants - counts['accepted']}; crafted headers accepted {counts['crafted']} of {len(crafted)}"
    )
    bad = counts["crashed"] + counts["hung"] + counts["pinned"] + counts["crafted"]
    promise = "rejected with the tensor's name; nothing but the pinned bytes"
    return Finding("R13", "corrupted safetensors or adapter", promise, figure, mutants + len(crafted), not bad)


def _crafted_headers() -> list[bytes]:
    """Overlaps, shapes that overflow 64 bits, doubles, and 100,001 entries."""

    def row(shape: list[int], begin: int, end: int) -> dict[str, Any]:
        return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}

    headers = [
        {"a": row([4], 0, 16), "b": row([4], 8, 24)},
        {"a": row([4], 0, 16), "b": row([4], 24, 40)},
        {"a": row([2**32, 2**32, 4], 0, 0)},
        {"a": row([2**63], 0, 16)},
        {"a": row([4], 16, 0)},
        {"a": row([4], 0, 2**63)},
        {str(i): row([0], 0, 0) for i in range(100_001)},
    ]
    texts = [json.dumps(header).encode() for header in headers]
    twice = json.dumps({"a": row([4], 0, 16)}).encode()
    texts += [twice[:-1] + b"," + twice[1:], b"{" + b'"a":{' * 20_000, b'{"a":' + b"[" * 90_000]
    return [struct.pack("<Q", len(text)) + text + bytes(40) for text in texts] + [struct.pack("<Q", 2**62) + b"{}"]


_Change = Callable[[dict[str, Any], dict[str, Any]], object]
_Q = "base_model.model.model.layers.0.self_attn.q_proj.lora"
_MISMATCHES: dict[str, _Change] = {
    "another method": lambda config, _: config.update(peft_type="IA3"),
    "DoRA": lambda config, _: config.update(use_dora=True),
    "whole modules": lambda config, _: config.update(modules_to_save=["lm_head"]),
    "a bias": lambda config, _: config.update(bias="all"),
    "another rank": lambda config, _: config.update(r=8),
    "another base by name": lambda config, _: config.update(base_model_name_or_path="owner/other"),
    "a layer too many": lambda _, held: held.update(
        {f"base_model.model.model.layers.30.self_attn.q_proj.lora_{s}.weight": held[f"{_Q}_{s}.weight"] for s in "AB"}
    ),
    "other widths": lambda _, held: held.update({f"{_Q}_A.weight": held[f"{_Q}_A.weight"][:, :512]}),
    "half a pair": lambda _, held: held.pop(f"{_Q}_B.weight"),
    "another prefix": lambda _, held: held.update(
        {name.removeprefix("base_model.model."): held.pop(name) for name in list(held)}
    ),
    "a module the base lacks": lambda config, held: (
        config.update(target_modules=[*config["target_modules"], "w1"]),
        held.update({f"{_Q.replace('q_proj', 'w1')}_{s}.weight": held[f"{_Q}_{s}.weight"] for s in "AB"}),
    ),
    "embeddings": lambda _, held: held.update({"base_model.model.lm_head.weight": np.zeros((4, 4), "f4")}),
}


def foreign_adapters(bench: Bench, _: int) -> Finding:
    """R14: twelve PEFT folders that do not belong to the packaged model, and one that fits and changes nothing."""
    folder = bench.new("foreign")
    path, sha = weights()
    wrong = [name for name, change in _MISMATCHES.items() if _host_takes(_foreign(folder, name, change), path, sha)]

    def silent(_: dict[str, Any], held: dict[str, Any]) -> None:
        held.update({name: value * 0 for name, value in held.items() if name.endswith("lora_B.weight")})

    async def checks(registry: Registry) -> dict[str, Check]:
        return {check.expert: check async for check in check_experts(registry)}

    assert _host_takes(_foreign(folder, "as it is", lambda _, __: None), path, sha)
    told = asyncio.run(checks(_registry(_foreign(folder, "silent", silent), path, sha)))["law"]
    noticed = not told.ok and "changes nothing" in str(told.problem)
    n = len(_MISMATCHES)
    figure = (
        f"refused before loading {n - len(wrong)} of {n}{': not ' + ', '.join(wrong) if wrong else ''}; an adapter that leaves "
        f"llama.cpp as it is {'noticed' if noticed else 'NOT noticed'} by its log-probabilities"
    )
    promise = "refused by config, names and shapes; a silent base model is caught by log-probabilities"
    return Finding("R14", "adapter for another base", promise, figure, n + 1, not wrong and noticed)


def _foreign(folder: Path, name: str, change: _Change) -> Path:
    """The packaged folder for sorting with this change."""
    source, made = PACKAGED / "adapters" / "sorting", folder / name.replace(" ", "-")
    made.mkdir()
    config, held = json.loads((source / CONFIG).read_text()), dict(load_arrays(source / WEIGHTS))
    change(config, held)
    (made / CONFIG).write_text(json.dumps(config))
    save_arrays(made / WEIGHTS, held)
    return made


def _registry(adapter: Path, path: Path, sha: str) -> Registry:
    place = adapter.parent / f"{adapter.name}.yaml"
    place.write_text(
        f"models:\n  small: {{sources: ['{path}'], sha256: {sha}, memory: 500MiB, context: 512, slots: 1, "
        "base: HuggingFaceTB/SmolLM2-135M-Instruct, template: 'default:chatml.jinja'}\n"
        "experts:\n  general: {model: small}\n"
        f"  law: {{model: small, adapter: {{path: '{adapter}', sha256: {sha_of(adapter)}}}}}\n"
    )
    return Registry(load_settings(place))


def _host_takes(adapter: Path, path: Path, sha: str) -> bool:
    registry = _registry(adapter, path, sha)
    try:
        registry.host("small", ["law"])
    except ConfigError:
        return False
    return True


def _watched(check: Callable[[], object], counts: Counter[str]) -> bool:
    """Whether a check lets something pass; anything but a ConfigError is a crash."""
    began, passed = time.monotonic(), False
    try:
        check()
        passed = True
    except ConfigError:
        pass
    except Exception:
        counts["crashed"] += 1
    counts["hung"] += time.monotonic() - began > _SLOW
    return passed


def _is_taken(path: Path, pin: str) -> bool:
    try:
        fetch([PathSource(str(path))], pin, name="mutant", base=path.parent, cache=path.parent / "cache", offline=True)
    except SourceError:
        return False
    return True


async def _opened(path: Path) -> None:
    engine = LlamaCppEngine()
    try:
        async with asyncio.timeout(_HANGS):
            await engine.open(Host(path.stem, "llamacpp", path=path, context=128, slots=1, chat=False))
    finally:
        await engine.close()


async def _tried(path: Path) -> str:
    """What became of a mutant in llama.cpp: opened, refused, hung, or (in this process) crashed."""
    try:
        await _opened(path)
    except (EngineError, ComposerError):
        return "refused"
    except TimeoutError:
        return "hung"
    except Exception:
        return "crashed"
    return "opened"
