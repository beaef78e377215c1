"""What the tests of vLLM share: its interpreter, the packaged model as a folder, and hosts of it."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer.engines.vllm import VllmEngine
from composer.registry.cache import Cache
from composer.registry.hf import digest
from composer.settings.adapter import folder_sha
from composer.types import AdapterFile, Draft, Host, Message, Prompt, Request, Sampling, Stream

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "composer" / "default" / "adapters"
TEMPLATE = (ROOT / "composer" / "default" / "chatml.jinja").read_text(encoding="utf-8")
ASKED = {  # by each adapter as it was trained, and never by the base alone
    "arithmetic": ("What is 12 + 30?", "42"),
    "units": ("Convert 3 hours to minutes.", "180"),
    "sorting": ("Sort these letters alphabetically: d b a c", "a, b, c, d"),
    "extraction": ("Extract the fields as JSON: Maria is a 34-year-old nurse from Rome.", "Maria"),
}


def python() -> str | None:
    """The interpreter that has vLLM; None where it is not there."""
    named = os.environ.get("COE_VLLM")
    if named:
        return named
    own = ROOT / ".venv-vllm" / "bin" / "python"
    return str(own) if own.is_file() else None


@dataclass(frozen=True)
class Env:
    """An interpreter and the packaged model as a folder."""

    python: str
    folder: Path

    def engine(self, **options: object) -> VllmEngine:
        """An engine on it; answers are the same to the last bit from run to run."""
        return VllmEngine(python=self.python, dtype="bfloat16", **options)  # type: ignore[arg-type]

    def host(self, name: str, adapters: Sequence[str] = (), *, slots: int = 8) -> Host:
        """A host with the packaged adapters of these names."""
        return Host(name, "vllm", self.folder, tuple(map(packaged, adapters)), 512, slots, template=TEMPLATE)


def registry_text(env: Env, options: str = "", experts: Sequence[str] = tuple(ASKED)) -> str:
    """A registry of the packaged model as a folder, and its adapters as PEFT folders."""
    rows = [
        f"  {name}: {{model: smol, adapter: {{path: {ADAPTERS / name}, sha256: {sha_of(name)}}}}}" for name in experts
    ]
    return "\n".join(
        [
            "models:",
            "  smol:",
            "    engine: vllm",
            f"    sources: [{env.folder}]",
            f"    sha256: {digest(env.folder, Cache())}",
            "    base: HuggingFaceTB/SmolLM2-135M-Instruct",
            "    context: 512",
            "    template: default:chatml.jinja",
            "    sampling: {max_tokens: 48}",
            f"    options: {{python: {env.python}, dtype: bfloat16{options}}}",
            "experts:",
            "  general: {model: smol}",
            *rows,
        ]
    )


def sha_of(name: str) -> str:
    """The sha256 of a packaged PEFT folder."""
    files = ("adapter_config.json", "adapter_model.safetensors")
    return folder_sha(*(hashlib.sha256((ADAPTERS / name / file).read_bytes()).hexdigest() for file in files))


def packaged(name: str) -> AdapterFile:
    """A PEFT folder that comes with the package."""
    return AdapterFile(name, ADAPTERS / name, "0" * 64)


def foreign(folder: Path, rename: Callable[[str], str], *, zeros: bool = False) -> AdapterFile:
    """The arithmetic adapter with its tensors renamed, or all its numbers 0."""
    folder.mkdir()
    raw = (ADAPTERS / "arithmetic" / "adapter_model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = {rename(name): row for name, row in json.loads(raw[8 : 8 + size]).items()}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = raw[8 + size :]
    numbers = bytes(len(numbers)) if zeros else numbers
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + numbers)
    (folder / "adapter_config.json").write_bytes((ADAPTERS / "arithmetic" / "adapter_config.json").read_bytes())
    return AdapterFile(folder.name, folder, "1" * 64)


def chat(text: str) -> Prompt:
    return (Message("user", text),)


def ask(name: str, prompt: Prompt, adapter: str | None = None, sampling: Sampling | None = None) -> Request:
    return Request(name, (Stream("smol", prompt, adapter),), sampling or Sampling(max_tokens=32))


async def drafts(engine: VllmEngine, requests: Sequence[Request]) -> dict[str, Draft]:
    return {name: piece async for name, piece in engine.generate(requests) if isinstance(piece, Draft)}
