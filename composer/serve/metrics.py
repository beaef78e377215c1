"""What the server counts, as Prometheus reads it. All names are here, and every label has few values: experts and
strategies of the registry, our own words, HTTP's numbers. No text of a caller is ever a label, and no name that is not
in the registry."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from composer.trace import Drafted, Event, Routed

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4
NOBODY = "none"
"""The strategy of a request that was refused before anybody was asked."""
_CALLERS_OWN = {"too_long", "unsupported"}  # failures that say nothing about the expert
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_OURS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counts since the server's start; `depth` says how many answers are under way."""

    def __init__(self, depth: Callable[[], int]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody reads
        self._registry = every = CollectorRegistry()
        self._requests = Counter(
            "coe_requests_total",
            "Requests for an answer, and all that was refused at the door, by HTTP status (499: the caller left).",
            ["status", "strategy"],
            registry=every,
        )
        self._duration = Histogram(
            "coe_request_duration_seconds", "Seconds to the end of the answer.", buckets=_SECONDS, registry=every
        )
        self._overhead = Histogram(
            "coe_overhead_seconds",
            "Seconds of an answer in which no expert was waited for: routing, store, reading, combining.",
            buckets=_OURS,
            registry=every,
        )
        self._calls = Counter(
            "coe_expert_calls_total",
            "Drafts that were generated, by what became of them: ok, length (cut off), or the kind of failure.",
            ["expert", "outcome"],
            registry=every,
        )
        self._state = Gauge(
            "coe_expert_state",
            "1: the expert's last call gave a draft; 0: it failed. Experts that nobody has asked yet have none.",
            ["expert"],
            registry=every,
        )
        self._degraded = Counter(
            "coe_degraded_total", "Answers that are not whole: an expert failed or was cut off.", registry=every
        )
        self._routes = Counter("coe_route_total", "How often a router chose the expert.", ["expert"], registry=every)
        self._tokens = Counter(
            "coe_tokens_total", "Tokens read (in) and written (out).", ["expert", "direction"], registry=every
        )
        self._cache = Counter(
            "coe_cache_requests_total", "Drafts that were in the store (hit) or not (miss).", ["result"], registry=every
        )
        Gauge("coe_queue_depth", "Answers under way, asked or waiting.", registry=every).set_function(depth)

    def text(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self._registry)

    def refused(self, status: int) -> None:
        """A request was refused before anybody was asked."""
        self._requests.labels(str(status), NOBODY).inc()

    def ended(self, strategy: str, status: int, seconds: float) -> None:
        """A request that was begun has ended, with this status or with what it would have been."""
        self._requests.labels(str(status), strategy).inc()
        self._duration.observe(seconds)

    def answered(self, degraded: int, ours: float) -> None:
        """A request was answered: how many of its answers are degraded, and the seconds that were ours."""
        self._degraded.inc(degraded)
        self._overhead.observe(ours)

    def hear(self, event: Event) -> None:
        """Count what happened to a query."""
        if isinstance(event, Routed):
            for arm in event.arms:
                self._routes.labels(arm).inc()
        elif isinstance(event, Drafted):
            self._cache.labels("hit" if event.cached else "miss").inc()
            if not event.cached:
                self._called(event)

    def _called(self, event: Drafted) -> None:
        draft = event.draft
        self._calls.labels(event.arm, "ok" if draft.ok else draft.error.kind if draft.error else draft.stop).inc()
        self._tokens.labels(event.arm, "in").inc(draft.usage.tokens_in)
        self._tokens.labels(event.arm, "out").inc(draft.usage.tokens_out)
        if draft.error is None and draft.stop != "cancelled":
            self._state.labels(event.arm).set(1)
        elif draft.error is not None and draft.error.kind not in _CALLERS_OWN:
            self._state.labels(event.arm).set(0)


class Watch:
    """Parts the time of one request into that in which experts were waited for, and ours. `asked`: somebody is asked from
    the beginning, without a router."""

    def __init__(self, *, asked: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._since = self._began if asked else None  # when the experts of this round were asked
        self._landed: float | None = None  # when the last draft of this round came that was not in the store
        self._heard = False
        self._theirs = 0.0

    def hear(self, event: Event) -> None:
        """Look at the clock: a round begins with a route, and ends with its last draft."""
        if isinstance(event, Routed):
            if self._heard:
                self._close()
            if self._since is None:  # one round asks for several queries
                self._since = self._clock()
        elif isinstance(event, Drafted):
            self._heard = True
            if not event.cached:
                self._landed = self._clock()

    def ours(self) -> float:
        """The seconds, at the end of the request, in which no expert was waited for."""
        self._close()
        return max(0.0, self._clock() - self._began - self._theirs)

    def _close(self) -> None:
        if self._since is not None and self._landed is not None:
            self._theirs += self._landed - self._since
        self._since, self._landed, self._heard = None, None, False
