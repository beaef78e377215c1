"""Errors of the routers: the same shape as everywhere, without importing anything above."""

from __future__ import annotations


class RouterError(Exception):
    """A router was given, or asked for, something it cannot handle; the message names it and the next step."""

    exit_code = 2


class NotFittedError(RouterError):
    """`score` before `fit`."""
