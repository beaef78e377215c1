"""The verbs about weights: `coe models convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from composer.command.kit import AsJson, Config, Offline, print_json

models = typer.Typer(help="The weights of models.", no_args_is_help=True, rich_markup_mode=None)


@models.callback()
def _models() -> None:
    """Without it, a single verb would be the command itself."""


@models.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="GGUF", help="A GGUF file, or a model of the registry by its name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; what was there is replaced.")],
    python: Annotated[
        str | None, typer.Option(help="An interpreter with torch, transformers and gguf (else COE_VLLM, .venv-vllm).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of its numbers: bfloat16, float16 or float32.")] = "bfloat16",
    config: Config = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Write a GGUF model as a folder in Hugging Face's form, for vLLM and for training."""
    from composer.errors import InputError
    from composer.registry.to_hf import convert as convert_file
    from composer.registry.vllm_home import find_python

    if dtype not in ("bfloat16", "float16", "float32"):
        raise InputError(f"--dtype {dtype!r} is unknown", remedy="choose bfloat16, float16 or float32")
    if out.is_dir() and any(out.iterdir()) and not (out / "config.json").is_file():
        raise InputError(f"{out} holds something that is no model", remedy="name a new folder")
    path = Path(source) if Path(source).is_file() else _of_registry(source, config, offline)
    sha256 = convert_file(path, out, python=find_python(python), dtype=dtype)  # type: ignore[arg-type]
    if as_json:
        print_json({"source": str(path), "folder": str(out), "sha256": sha256})
        return
    typer.echo(f"{out}\n  engine: vllm\n  sources: [{out.absolute()}]\n  sha256: {sha256}")


def _of_registry(name: str, config: Path | None, offline: bool) -> Path:
    """The file of the model of this name."""
    from composer.config import find_registry, load_settings
    from composer.errors import InputError, suggest
    from composer.registry.experts import Registry
    from composer.registry.progress import console_progress

    settings = load_settings(find_registry(config))
    if name not in settings.models:
        raise InputError(
            f"{name!r} is no file, and no model of {settings.path}", remedy=suggest(name, list(settings.models))
        )
    path = Registry(settings, offline=offline, progress=console_progress()).host(name, ()).path
    if path is None or path.is_dir():
        raise InputError(f"the model {name!r} is no GGUF file here", remedy="name one that is")
    return path
