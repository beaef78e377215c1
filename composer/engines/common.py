"""What several engines need: a batch run a few requests at a time, the draft of a failure, a prompt as text."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from composer.types import Delta, Draft, Failure, Prompt, Request


async def in_slots(
    requests: Sequence[Request], answer: Callable[[Request], Awaitable[Draft]], slots: int
) -> AsyncGenerator[tuple[str, Draft], None]:
    """Yield (id, draft) as they land; at most `slots` run at once, started in the order given.

    What is past its deadline is not started. Closing the iterator cancels what runs, and returns when it has ended.
    A single request is run by whoever reads, without a task of its own.
    """

    async def one(request: Request) -> tuple[str, Draft]:
        if request.deadline is not None and request.deadline <= asyncio.get_running_loop().time():
            return request.id, failed("timeout", "its deadline passed before its turn came")
        return request.id, await answer(request)

    if len(requests) == 1:
        yield await one(requests[0])
        return
    waiting = iter(requests)
    running: set[asyncio.Task[tuple[str, Draft]]] = set()
    landed: set[asyncio.Task[tuple[str, Draft]]] = set()
    try:
        while True:
            while len(running) < slots and (request := next(waiting, None)) is not None:
                running.add(asyncio.create_task(one(request)))
            for task in landed:  # only now: a slow reader leaves no slot empty
                yield task.result()
            if not running:
                return
            landed, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running -= landed
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def with_deltas(
    drafts: AsyncGenerator[tuple[str, Draft], None], pieces: asyncio.Queue[tuple[str, Delta | Draft] | None]
) -> AsyncGenerator[tuple[str, Delta | Draft], None]:
    """`drafts`, and among them what comes into `pieces` meanwhile: whoever writes a draft puts its pieces there first.

    Closing the iterator closes `drafts`.
    """

    async def pump() -> None:
        async with contextlib.aclosing(drafts):
            async for item in drafts:
                pieces.put_nowait(item)

    work = asyncio.create_task(pump())
    work.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (item := await pieces.get()) is not None:
            yield item
        await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def answered(
    requests: Sequence[Request], answer: Callable[[Request, Callable[[Delta], None]], Awaitable[Draft]], slots: int
) -> AsyncGenerator[tuple[str, Delta | Draft], None]:
    """`in_slots`, with the pieces of those requests that want them: hundreds per draft are work that a file of questions
    has no use for. A slow reader holds up nobody: pieces wait for it, the connection is read all the same."""
    pieces: asyncio.Queue[tuple[str, Delta | Draft] | None] = asyncio.Queue()

    def one(request: Request) -> Awaitable[Draft]:
        if not request.deltas:
            return answer(request, _untold)
        return answer(request, lambda delta: pieces.put_nowait((request.id, delta)))

    drafts = in_slots(requests, one, slots)
    if not any(request.deltas for request in requests):
        async with contextlib.aclosing(drafts):
            async for item in drafts:
                yield item
        return
    async with contextlib.aclosing(with_deltas(drafts, pieces)) as found:
        async for name, piece in found:
            yield name, piece


class Places:
    """So many streams at once: a request of several waits until there is a place for all of them, in order of arrival."""

    def __init__(self, many: int) -> None:
        self._free = self.many = many
        self._turn, self._left = asyncio.Lock(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def taken(self, streams: int) -> AsyncGenerator[None, None]:
        """Hold as many places (not more than there are)."""
        async with self._turn:
            while self._free < streams:
                self._left.clear()
                await self._left.wait()
            self._free -= streams
        try:
            yield
        finally:
            self._free += streams
            self._left.set()


def _untold(_: Delta) -> None:
    """Nobody reads along."""


def failed(kind: str, message: str, attempts: int = 1) -> Draft:
    """The draft of a request that has no answer."""
    return Draft(key="", text="", stop="error", error=Failure(kind, message, attempts))


def prompt_text(prompt: Prompt) -> str:
    """The words of a prompt without its speakers: text as it stands, the turns of a chat line after line."""
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)
