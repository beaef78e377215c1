"""The public surface of the package."""

from __future__ import annotations

import pytest

import routers


def test_public_names_are_sorted_and_real() -> None:
    assert routers.__all__ == sorted(routers.__all__)
    assert all(getattr(routers, name).__name__ == name for name in routers.__all__)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'router'"):
        _ = routers.router
