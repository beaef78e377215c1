"""What starting costs: nothing heavy is imported before a verb needs it, and the public surfaces are what they say."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

HEAVY = [
    "numpy",
    "onnxruntime",
    "tokenizers",
    "pyarrow",
    "faiss",
    "xllamacpp",
    "langgraph",
    "httpx",
    "torch",
    "transformers",
    "litellm",
    "vllm",
    "sklearn",
    "pydantic",
    "ruamel",
    "sqlite3",
    "asyncio",
    "prometheus_client",
]


def loaded_after(code: str) -> set[str]:
    """The top-level modules of a fresh interpreter that has run `code`."""
    script = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("package", ["composer", "routers", "evals"])
def test_importing_a_package_loads_nothing_heavy(package: str) -> None:
    assert loaded_after(f"import {package}").isdisjoint(HEAVY)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['coe', '--help']\nfrom composer.cli import main\ntry: main()\nexcept SystemExit: pass"
    )

    # typer itself brings pydantic's core along in some versions; what counts is what we add
    ours = set(HEAVY) - loaded_after("import typer")

    assert loaded_after(code).isdisjoint(ours)


def test_route_needs_no_graph_no_client_and_no_engine() -> None:
    code = (
        "import sys; sys.argv = ['coe', 'route', 'What is 47 + 38?']\n"
        "from composer.cli import main\ntry: main()\nexcept SystemExit: pass"
    )

    assert loaded_after(code).isdisjoint({"langgraph", "httpx", "xllamacpp", "faiss", "torch", "sklearn"})


@pytest.mark.parametrize("package", ["composer", "routers", "evals"])
def test_the_public_names_are_sorted_and_real(package: str) -> None:
    module = importlib.import_module(package)

    assert list(module.__all__) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
