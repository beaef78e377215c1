"""Progress of a batch on stderr: a live table where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from composer.pipeline import Pipeline
from composer.serving import put_on, served_by
from composer.show import many
from composer.trace import Drafted, Event, Routed

EVERY = 5.0  # seconds between two plain lines
OTHERS = "others"  # in place of a host, for what is asked under a name that is no expert's
_PER_SECOND = 4  # how often the table is drawn


@dataclass(frozen=True, slots=True)
class HostView:
    """One host. `queued` counts requests that wait (and those that run, where `running` is None: not known), `done` all
    drafts, those from the store included; `tokens_per_second` are written ones; `resident` bytes and `loads` None: not known."""

    queued: int
    done: int
    tokens_per_second: float
    running: int | None = None
    resident: int | None = None
    loads: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """How a batch stands. `loads` were made so far, `floor` is the fewest that what was asked could cost (None: not known);
    `stopping` says why nothing more is sent."""

    hosts: Mapping[str, HostView]
    done: int
    wanted: int
    cached: int
    failed: int
    seconds: float
    loads: int = 0
    floor: int | None = None
    stopping: str | None = None


class HostStanding(Protocol):
    """What a pool knows of one host."""

    @property
    def queued(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def tokens_per_second(self) -> float: ...
    @property
    def resident(self) -> int: ...
    @property
    def loads(self) -> int: ...


class Standing(Protocol):
    """What a pool knows of all its hosts, its loads and the fewest there could have been."""

    @property
    def hosts(self) -> Mapping[str, HostStanding]: ...
    @property
    def loads(self) -> int: ...
    @property
    def floor(self) -> int: ...


def joined(view: View, status: Standing) -> View:
    """A view counted from events, with what the pool knows better: it replaces what is said of each of its hosts."""
    hosts = {
        name: HostView(
            queued=host.queued,
            done=host.done,
            tokens_per_second=host.tokens_per_second,
            running=host.running,
            resident=host.resident,
            loads=host.loads,
        )
        for name, host in status.hosts.items()
    }
    return replace(view, hosts={**view.hosts, **hosts}, loads=status.loads, floor=status.floor)


@dataclass(slots=True)
class _Count:
    wanted: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    tokens: int = 0
    first: float | None = None  # when its first call landed, less the time that took
    last: float = 0.0


@dataclass(slots=True)
class Tally:
    """Counts a pipeline's events. `host_of` maps an arm to its host; `clock` is monotonic seconds."""

    host_of: Callable[[str], str]
    clock: Callable[[], float] = time.monotonic
    hosts: dict[str, _Count] = field(default_factory=dict)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def hear(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Routed):
            for arm in event.arms:
                self._host(arm).wanted += 1
        elif isinstance(event, Drafted):
            count, now = self._host(event.arm), self.clock()
            count.done += 1
            count.wanted += event.role != "draft"  # what is asked before answers is known only as it comes
            count.cached += event.cached
            count.failed += not event.ok
            if not event.cached:
                count.tokens += event.tokens
                count.first = now - event.seconds if count.first is None else min(count.first, now - event.seconds)
                count.last = now

    def view(self, loads: int = 0, floor: int | None = None, stopping: str | None = None) -> View:
        """How it stands now."""
        counts = list(self.hosts.values())
        return View(
            hosts={
                name: HostView(
                    queued=max(0, count.wanted - count.done),
                    done=count.done,
                    tokens_per_second=count.tokens / max(count.last - count.first, 1e-3)
                    if count.first is not None
                    else 0.0,
                )
                for name, count in self.hosts.items()
            },
            done=sum(count.done for count in counts),
            wanted=sum(max(count.wanted, count.done) for count in counts),
            cached=sum(count.cached for count in counts),
            failed=sum(count.failed for count in counts),
            seconds=self.clock() - self.began,
            loads=loads,
            floor=floor,
            stopping=stopping,
        )

    def _host(self, arm: str) -> _Count:
        return self.hosts.setdefault(self.host_of(arm), _Count())


def table(view: View, what: str) -> Group:
    """The view for a terminal: the sums, and a row per host."""
    shown = Table(box=None, pad_edge=False)
    for column in ("host", "queued", "running", "done", "tokens/s", "resident", "loads"):
        first = column == "host"
        shown.add_column(column, justify="left" if first else "right", style="cyan" if first else None)
    for name, host in view.hosts.items():
        resident = "-" if host.resident is None else f"{host.resident / 2**20:.0f} MiB"
        shown.add_row(
            name,
            str(host.queued),
            _known(host.running),
            str(host.done),
            f"{host.tokens_per_second:.0f}",
            resident,
            _known(host.loads),
        )
    return Group(Text(line(view, what)), shown)


def line(view: View, what: str) -> str:
    """The view in one line, for logs."""
    loads = many(view.loads, "load") + ("" if view.floor is None else f" (floor {view.floor})")
    parts = [f"{view.done} of {view.wanted} {what}", f"{view.cached} from the store", loads, f"{view.seconds:.0f} s"]
    if view.failed:
        parts.append(f"{view.failed} not whole")
    if view.stopping:
        parts.append(f"stopping: {view.stopping}")
    return ", ".join(parts)


@contextmanager
def watch(
    pipeline: Pipeline,
    what: str,
    stopping: Callable[[], str | None] = lambda: None,
    *,
    routed: bool = False,
) -> Iterator[None]:
    """Show how many of the planned drafts of `pipeline` are done, until the block ends; `stopping` says why no more are
    asked; `routed`: the questions go through `pipeline:`, which may put contrasts onto arms. A terminal gets a table (without colours where NO_COLOR is set), anything else a line now and then."""
    registry = pipeline.registry
    known = {*pipeline.settings.arms, *pipeline.settings.writers}
    decoded = put_on(registry, lambda: pipeline.contrasts) if routed else {}
    tally = Tally(lambda name: served_by(registry, decoded.get(name, name)) if name in known else OTHERS)

    def now() -> View:
        pool, view = pipeline.opened_pool, tally.view(stopping=stopping())
        return view if pool is None else joined(view, pool.status())

    if sys.stderr.isatty():
        shown = Live(
            console=Console(stderr=True),
            get_renderable=lambda: table(now(), what),
            refresh_per_second=_PER_SECOND,
            transient=True,
            redirect_stdout=False,
        )
        pipeline.listen(tally.hear)
        with shown:
            yield
        return
    last = time.monotonic()

    def listen(event: Event) -> None:
        nonlocal last
        tally.hear(event)
        if isinstance(event, Drafted) and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            with suppress(OSError):  # whoever read our lines has gone: the work is worth finishing
                sys.stderr.write(line(now(), what) + "\n")

    pipeline.listen(listen)
    yield


def _known(count: int | None) -> str:
    return "-" if count is None else str(count)
