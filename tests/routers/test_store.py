"""Routers on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from routers.baselines import KeywordRouter
from routers.errors import NotFittedError, RouterError
from routers.ridge import RidgeRouter
from routers.store import FILE, fingerprint, load, save
from routers.testing import simulate

KEYS: Mapping[str, str] = {"encoder": "e" * 64, "outcomes": "o" * 64}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(RidgeRouter().fit(*simulate()), tmp_path / "router", keys=KEYS)
    return tmp_path / "router"


def test_what_is_loaded_learns_on(saved: Path) -> None:
    questions, _ = simulate()
    router = load(saved, keys=KEYS)

    assert isinstance(router, RidgeRouter)
    assert router == RidgeRouter()
    router.update(*simulate(30, seed=4))
    assert np.isfinite(router.score(questions)).all()


def test_another_encoder_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(RouterError, match="fitted with another encoder"):
        load(saved, keys={**KEYS, "encoder": "f" * 64})


def test_a_damaged_array_is_noticed(saved: Path) -> None:
    array = next(saved.glob("*.npy"))
    array.write_bytes(array.read_bytes()[:-1] + b"\x7f")

    with pytest.raises(RouterError, match="damaged"):
        load(saved, keys=KEYS)


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"type": "os.system", "fields": {}}, "no module that is read"),
        ({"type": "routers.ridge.np", "fields": {}}, "nothing that is saved"),
        ({"type": "routers.ridge.PerArm", "fields": {}}, "nothing that is saved"),
        ({"type": "routers.types.Arm", "fields": {"name": "a", "price": 1.0}}, "this is no router"),
        ({"array": "../../etc/passwd"}, "no name of an array"),
        ({"array": "0" * 64}, "cannot be read"),
        (["what"], "this is no router"),
    ],
)
def test_a_file_cannot_name_anything_else(saved: Path, told: object, complaint: str) -> None:
    file = saved / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "router": told}))

    with pytest.raises(RouterError, match=complaint):
        load(saved, keys=KEYS)


def test_saving_again_leaves_no_old_arrays(saved: Path) -> None:
    before = {path.name for path in saved.glob("*.npy")}
    router = RidgeRouter().fit(*simulate(60, seed=2))

    save(router, saved, keys=KEYS)

    after = {path.name for path in saved.glob("*.npy")}
    assert after.isdisjoint(before)
    assert np.array_equal(load(saved, keys=KEYS).score(simulate(9)[0]), router.score(simulate(9)[0]))


def test_what_is_not_fitted_or_not_data_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        save(RidgeRouter(), tmp_path, keys=KEYS)
    router = KeywordRouter({"cooking": ("bake",)}).fit(*simulate())
    router.rules = {"cooking": frozenset({"bake"})}  # type: ignore[dict-item]
    with pytest.raises(RouterError, match="frozenset cannot be saved"):
        save(router, tmp_path, keys=KEYS)


def test_the_fingerprint_is_of_the_content_not_the_order() -> None:
    questions, outcomes = simulate(20)
    turned = list(reversed(range(20)))

    assert fingerprint(questions, outcomes) == fingerprint(questions.take(turned), outcomes.take(turned))
    assert fingerprint(questions, outcomes) != fingerprint(*simulate(20, seed=1))
