"""Every error a caller gets: OpenAI's form, the right status, and nothing about this machine."""

from __future__ import annotations

from typing import Any

from composer.errors import (
    ComposerError,
    EngineError,
    InputError,
    MemoryBudgetError,
    RequestError,
    SourceError,
)
from composer.types import Failure

_STATUS = {
    "timeout": 504,
    "overloaded": 503,
    "unreachable": 503,
    "host_failed": 503,
    "host_died": 503,
    "closed": 503,
    "too_long": 400,
}
_LONGEST = 300  # characters of what an expert's host said


class Refused(Exception):
    """A request gets no answer. `status` is HTTP's, `param` the field that is wrong, `code` stable and for programs;
    `retry` says after how many seconds to try again (None: trying again changes nothing)."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, retry: int | None = None
    ) -> None:
        self.status, self.message, self.code, self.param, self.retry = status, message, code, param, retry
        super().__init__(message)

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        kinds = {429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Whether to come back: the official clients retry 429 and 5xx by themselves unless told otherwise."""
        if self.retry is not None:
            return {"retry-after": str(self.retry)}
        return {"x-should-retry": "false"} if self.status >= 500 else {}


def of_error(why: ComposerError) -> Refused:
    """What a caller is told of an error of ours: what is wrong, not where on this machine; the operator reads that."""
    if isinstance(why, InputError | RequestError):
        told = f"{why.what} ({why.remedy})" if why.remedy else why.what
        return Refused(400, told, code="invalid_request", param="messages")
    if isinstance(why, SourceError | EngineError | MemoryBudgetError):
        return Refused(
            503, f"the model cannot be loaded now: {_first_line(why.what)}", code="model_unavailable", retry=5
        )
    return Refused(500, "the server could not answer; its log says why", code="internal")


def of_failure(failure: Failure, expert: str) -> Refused:
    """What a caller is told when the expert that should have answered failed."""
    status = _STATUS.get(failure.kind, 502)
    if failure.kind == "too_long":
        return Refused(400, _first_line(failure.message), code="context_length_exceeded", param="messages")
    retry = 1 if status == 503 else None
    told = f"the expert {expert} failed ({failure.kind}): {_first_line(failure.message)}"
    return Refused(status, told, code=failure.kind, retry=retry)


def stopping() -> Refused:
    """We are told to end."""
    return Refused(503, "the server is stopping", code="stopping", retry=5)


def internal() -> Refused:
    """A bug of ours: details are in the log."""
    return Refused(500, "the server made a mistake; its log says more", code="internal")


def _first_line(text: str) -> str:
    """Without what a host's log said last: paths, versions."""
    return text.partition("\n")[0].partition("; its last words")[0][:_LONGEST]
