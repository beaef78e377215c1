"""What runs a model, and what is set otherwise than usual: parts of what drafts and records are known by."""

from __future__ import annotations

from dataclasses import fields
from importlib.metadata import version
from typing import Any

from composer.plugins import load
from composer.registry.vllm_home import find_python, torch_versions, vllm_version
from composer.settings.specs import ModelSpec
from composer.types import Sampling


def changed(sampling: Sampling) -> dict[str, Any]:
    """The settings that are not what they are by default."""
    pairs = {field.name: (getattr(sampling, field.name), field.default) for field in fields(sampling)}
    return {name: value for name, (value, default) in pairs.items() if value != default}


def engine_version(model: ModelSpec) -> str:
    """What runs the model and how: options may change the last bits, and with them the text."""
    options = dict(model.options)
    name, python = model.engine, options.get("python")
    if model.engine == "llamacpp":
        name = f"llamacpp {version('xllamacpp')}"
    elif (
        model.engine == "vllm" and options.get("url") is None
    ):  # a server of somebody else tells its own only when asked
        name = f"vllm {vllm_version(find_python(str(python) if python else None))}"
    elif model.engine == "transformers":
        name = f"transformers {torch_versions(find_python(str(python) if python else None))}"
    plumbing = getattr(load("engines", model.engine), "plumbing", ()) if model.options else ()
    told = (f"{option}={value!r}" for option, value in sorted(model.options) if option not in plumbing)
    return " ".join([name, *told])
