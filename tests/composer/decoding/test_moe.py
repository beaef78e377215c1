"""Control over the routing inside a mixture-of-experts model, on every family, in the interpreter that has torch."""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import composer
from composer.decoding.families import FAMILIES
from composer.decoding.policies import RankExpert, TopP
from composer.errors import RequestError

CHECKS = Path(__file__).with_name("moe_checks.py")  # which runs those of the files beside, too
ALONE = (  # the package's folder without what its __init__ needs: what another interpreter sees
    "import sys, types; package = types.ModuleType('composer'); "
    f"package.__path__ = {list(composer.__path__)!r}; sys.modules['composer'] = package"
)


def _listed(name: str) -> list[str]:
    """The names in a list of the script, so that a check that is not reported is missed."""
    tree = ast.parse(CHECKS.read_text(encoding="utf-8"))
    main = next(one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name == "main")
    made = next(
        one.value
        for one in main.body
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name) and one.targets[0].id == name
    )
    assert isinstance(made, ast.List)
    return [one.id for one in made.elts if isinstance(one, ast.Name)]


@cache
def _found() -> dict[str, dict[str, str | None]]:
    """What the child found, per family and check: one process for all, because loading torch takes seconds."""
    run = f"import runpy; sys.path.insert(0, {str(CHECKS.parent)!r}); runpy.run_path({str(CHECKS)!r}, run_name='__main__')"
    done = subprocess.run(
        [os.environ["COE_VLLM"], "-c", f"{ALONE}; {run}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str | None]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.vllm
@pytest.mark.parametrize("family", [family.name for family in FAMILIES.values()])
@pytest.mark.parametrize("check", _listed("each"))
def test_every_family_keeps_it(family: str, check: str) -> None:
    if failed := _found()[family][check]:
        pytest.fail(failed, pytrace=False)


@pytest.mark.vllm
@pytest.mark.parametrize("check", _listed("alone"))
def test_it_holds_for_the_module(check: str) -> None:
    if failed := _found()["any"][check]:
        pytest.fail(failed, pytrace=False)


def test_every_check_of_the_script_is_one_that_runs() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in CHECKS.parent.glob("moe_*checks.py")]
    defined = {one.name for tree in trees for one in tree.body if isinstance(one, ast.FunctionDef)}
    assert len(trees) == 3
    assert defined - {"by_hand", "two", "naive", "main"} == {*_listed("each"), *_listed("alone")}


def test_the_module_needs_no_torch_to_be_imported() -> None:
    code = "import composer.decoding.scmoe, sys; print(sorted({'torch', 'transformers', 'routers'} & set(sys.modules)))"
    [folder] = composer.__path__
    alone = (
        f"import sys, types; p = types.ModuleType('composer'); p.__path__ = [{folder!r}]; sys.modules['composer'] = p; "
    )
    done = subprocess.run([sys.executable, "-c", alone + code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in (lambda: RankExpert(-1), lambda: TopP(1.5), lambda: TopP(0.4, 0)):
        with pytest.raises(RequestError):
            wrong()
