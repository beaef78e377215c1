"""Before the first token: does the server serve our model, and does the prompt fit, counted by the server itself?"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.engines.retry import Unusable
from composer.engines.servers import SERVERS, Extra, Name, Server, dug, is_dated, known_by, names_of
from composer.types import Request

Ask = Callable[[str, Mapping[str, object] | None, float], Awaitable[Any]]
_FRESH, _QUIET = (
    30.0,
    2.0,
)  # seconds: the server is looked at again after so long, or after a pause that ends connections
_LONGEST = 15.0  # seconds a look may take
_IDENTITY = ("owned_by", "root", "parent", "meta", "digest")  # of a listed model, what does not change by itself
_PER_TURN, _PER_PROMPT = 32, 256  # tokens a chat template may add: marks of a turn; a system message of its own


@dataclass(slots=True)
class Preflight:
    """What is known of the server behind `ask`, looked at when it is first needed and again now and then.

    `model` is what it is asked for, `serves_as` another name by which it lists it and replies. `context` counts where the
    server does not say its own. `uncounted` lets prompts through that nobody can count.
    """

    ask: Ask
    url: str
    model: str
    serves_as: str = ""
    wanted: Name | None = None
    context: int = 0
    uncounted: bool = False
    look: bool = True
    server: Server = SERVERS["other"]
    _names: frozenset[str] = frozenset()
    _identity: dict[str, Any] | None = None
    _told: int | None = None  # the server's word on its context
    _looked: float | None = None
    _used: float = 0.0
    _looking: asyncio.Task[None] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.server = SERVERS[self.wanted or "other"]
        self._names = frozenset({self.model, self.serves_as} - {""})

    async def ready(self, request: Request, ends: float) -> Mapping[str, object]:
        """The fields this server wants, where it serves our model and the prompt fits. Raises Unusable."""
        now = time.monotonic()
        stale = self._looked is None or now - self._looked > _FRESH or now - self._used > _QUIET
        self._used = now
        if self.look and stale:
            await self._shared(ends)
        await self._fits(request, ends)
        return self._fields(request)

    def serves(self, name: str) -> bool:
        """Whether a reply that calls its model so is one of ours."""
        return name in self._names or is_dated(name, self.model)

    def lost(self) -> None:
        """Look again before the next request."""
        self._looked = None

    async def close(self) -> None:
        """End a look that nobody waits for any more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _shared(self, ends: float) -> None:
        """One look for all who need it now."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(time.monotonic() + _LONGEST))
            self._looking.add_done_callback(self._done)
        looking = self._looking
        async with asyncio.timeout(max(0.0, ends - time.monotonic())):
            await asyncio.wait([looking])
        if looking.cancelled():
            raise Unusable("closed", "it was closed meanwhile")
        looking.result()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled():
            task.exception()  # whoever waits hears it; if nobody does, it is no warning

    async def _look(self, ends: float) -> None:
        told = await self.ask("/v1/models", None, ends)
        if told is None:
            self._looked = time.monotonic()  # it has no list: what its replies say has to do
            return
        rows = told.get("data") if isinstance(told, dict) else None
        if not isinstance(rows, list):
            raise Unusable("bad_response", f"{self.url}/v1/models gives no list of models")
        entries = [row for row in rows if isinstance(row, dict)]
        self.server = known_by(entries, self.wanted)
        entry, names = self._found(entries)
        identity = {key: entry[key] for key in _IDENTITY if key in entry}
        if self._identity is not None and identity != self._identity:
            changed = [key for key in _IDENTITY if identity.get(key) != self._identity.get(key)]
            raise Unusable(
                "wrong_model",
                f"{self.url} serves another {self.model!r} than when it was first asked: {', '.join(changed)} changed;"
                " start again if that is intended",
            )
        self._identity = identity
        self._names |= names
        if self._told is None:
            self._told = await self._context(told, names | {str(entry.get("parent"))}, ends)
        self._looked = time.monotonic()

    def _found(self, entries: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], frozenset[str]]:
        wanted = {self.serves_as or self.model}
        for entry in entries:
            names = names_of(entry, self.server)
            if not names.isdisjoint(wanted):
                return entry, names
        listed = [str(entry.get("id")) for entry in entries]
        near = difflib.get_close_matches(self.model, listed, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(map(repr, listed[:8])) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
        raise Unusable(
            "wrong_model",
            f"{self.url} does not serve {self.serves_as or self.model!r}; {hint}it serves: {shown or 'nothing'};"
            " correct `model`, or start the server with that model",
        )

    async def _context(self, listed: Any, names: frozenset[str], ends: float) -> int | None:
        if self.server.context is None:
            return None
        path, keys = self.server.context
        found = dug(listed if path == "/v1/models" else await self.ask(path, None, ends), keys, names)
        return found if isinstance(found, int) and found > 0 else None

    async def _fits(self, request: Request, ends: float) -> None:
        """Raise Unusable unless the prompt leaves room for a token. A token has a byte at least, so most need no count."""
        context = self._told or self.context
        most = _most(request)
        if not context or most < context:
            return
        counted = await self._count(request, ends) if self.server.counts else None
        if counted is not None and counted >= context:
            raise Unusable(
                "too_long",
                f"the prompt has {counted} tokens, the context holds {context}, and an answer needs room too;"
                f" shorten it, or raise {self.server.limit}",
            )
        if counted is None and self.server.cuts and not self.uncounted:
            raise Unusable(
                "too_long",
                f"the prompt may have {most} tokens, the context holds {context}; {self.server.name} has no tokenizer to"
                f" count them with, and may cut a longer prompt in silence: raise {self.server.limit} and `context` of"
                " the model, or set `uncounted: true` to risk it",
            )

    async def _count(self, request: Request, ends: float) -> int | None:
        """Tokens of the prompt by the server's own tokenizer; None where it will not say."""
        prompt = request.streams[0].prompt
        turns = None if isinstance(prompt, str) else [{"role": turn.role, "content": turn.content} for turn in prompt]
        options = dict(request.sampling.template)
        more: dict[str, object] = {"chat_template_kwargs": options} if options else {}
        if self.server.counts == "vllm":
            chat = {"messages": turns, "add_generation_prompt": True, **more} if turns else {"prompt": prompt}
            told = await self.ask("/tokenize", {"model": self.model, **chat}, ends)
            return _whole(told.get("count")) if isinstance(told, dict) else None
        if self.server.counts == "tgi":
            path = "/chat_tokenize" if turns else "/tokenize"
            told = await self.ask(path, {"model": self.model, "messages": turns} if turns else {"inputs": prompt}, ends)
            told = told.get("tokenize_response") if isinstance(told, dict) else told
            return len(told) if isinstance(told, list) else None
        if turns:
            told = await self.ask("/apply-template", {"messages": turns, **more}, ends)
            text = told.get("prompt") if isinstance(told, dict) else None
        else:
            text = prompt
        if not isinstance(text, str):
            return None
        told = await self.ask("/tokenize", {"content": text, "add_special": True, "parse_special": True}, ends)
        tokens = told.get("tokens") if isinstance(told, dict) else None
        return len(tokens) if isinstance(tokens, list) else None

    def _fields(self, request: Request) -> Mapping[str, object]:
        """None: a field that is not sent. Raises Unusable for a wish that this server is not known to heed."""
        sampling, server = request.sampling, self.server
        wishes: dict[Extra, bool] = {
            "top_k": sampling.top_k != 0,
            "min_p": sampling.min_p != 0,
            "repetition_penalty": sampling.repetition_penalty != 1,
            "template": bool(sampling.template),
        }
        if strange := [name for name, wished in wishes.items() if wished and name not in server.takes]:
            kind = f"the server at {self.url} is of no kind we know, and" if server.name == "other" else server.name
            raise Unusable(
                "unsupported",
                f"{kind} may ignore {', '.join(strange)}: nothing is asked in another way than was wished; take it out of"
                " `sampling`, or set option `server` to its kind",
            )
        fields: dict[str, object] = {"model": self.model}
        fields["top_k"] = (sampling.top_k or server.all_k) if "top_k" in server.takes else None
        if "min_p" not in server.takes:
            fields["min_p"] = None
        if server.penalty:
            fields[server.penalty] = sampling.repetition_penalty
        if server.seeds is not None:
            fields["seed"] = sampling.seed % server.seeds
        return fields | {name: None for name, neutral in server.omits if getattr(sampling, name) == neutral}


def _most(request: Request) -> int:
    """More tokens than this the prompt cannot have."""
    prompt = request.streams[0].prompt
    if isinstance(prompt, str):
        return _bytes(prompt) + 2
    return _PER_PROMPT + sum(_PER_TURN + _bytes(turn.content) for turn in prompt)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
