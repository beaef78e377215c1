"""vLLM decodes several streams as one: a logits processor that combines the rows of a group, one request per stream.

Alone it is a plugin of vLLM's, for Python (`LLM(..., logits_processors=["composer.engines.vllm_contrast:Contrast"])`) and
for its server (`--logits-processors composer.engines.vllm_contrast:Contrast`); docs/contrast.md has an example. A request
names its part in `SamplingParams.extra_args` (over HTTP: `vllm_xargs`):

    contrast_group      any name, one per answer: the requests that carry it are decoded as one
    contrast_place      which stream this is: 0, 1, …
    contrast_weights    a weight per stream, the same list in all requests of the group
    contrast_space, contrast_alpha, contrast_mask_from, contrast_top_p    the mix (`composer.types.Mix`), the same in all
    contrast_broken     optional: the id of a token that means "lost step", one of its `stop_token_ids`

All sampling parameters are to be the same in all requests of a group, with a `seed` where the temperature is above 0; then
all rows draw the same token, and the answers are equal. That holds while they are in step, which is checked before every
token: all of them in the batch, as long and with the same last token. A group that is not raises, which ends the engine; with
`contrast_broken` its requests end by that token instead (`stop_reason`). So hand all requests of a group over in one call of
`LLM.generate`, with the engine in the same process (`VLLM_ENABLE_V1_MULTIPROCESSING=0`: another one begins with what has
arrived), and see to it that their prompts fit into one step (`max_num_batched_tokens`), that there is a slot for each
(`max_num_seqs`, `max_loras`), and that the cache holds them all. What no logits processor can see: whether a row is still
reading its prompt. A group that does not come to its first token in one step is noticed at the next token.

Penalties for repetition count each row's own prompt and are refused; masks of a schema, biases and forbidden tokens are
applied to each stream before they are combined, all that draws (temperature, min_p, top_k, top_p) after.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from composer.decoding.combine import combine
from composer.engines.vllm_rows import BROKEN, Group, Rows, place_of


class Contrast(LogitsProcessor):
    """Combines the rows of every group, in float32, and writes the outcome into all of them."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError for a request that cannot be a stream of a group."""
        place = place_of(sampling_params.extra_args)
        if place is None:
            return
        if sampling_params.repetition_penalty != 1:
            raise ValueError("a repetition penalty counts each stream's own prompt: they would draw different tokens")
        if sampling_params.temperature > 0 and sampling_params.seed is None:
            raise ValueError("streams that draw need a `seed`, the same in all: they would draw different tokens")
        if sampling_params.n != 1:
            raise ValueError(f"a stream is one request, not {sampling_params.n}: give each sample a group of its own")
        if place.broken is not None and place.broken not in (sampling_params.stop_token_ids or ()):
            raise ValueError(f"{BROKEN} {place.broken} is to be one of `stop_token_ids`")

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._rows = Rows()

    def is_argmax_invariant(self) -> bool:
        """It changes which token is the likeliest."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Take over which rows came, went and moved."""
        if batch_update is None:
            return
        swap = MoveDirectionality.SWAP
        self._rows.update(
            batch_update.removed,
            ((row, params and params.extra_args, written) for row, params, _, written in batch_update.added),
            ((one, other, how == swap) for one, other, how in batch_update.moved),
        )

    def apply(self, logits: Any) -> Any:
        """The logits [rows, tokens] with the rows of groups combined. Raises RuntimeError where one has lost step."""
        if not self._rows:
            return logits
        for group in self._rows.groups():
            if not group.whole:
                self.not_whole(group, logits)
                continue
            # One after the other: what one group needs stays in the processor's cache, what all need together does not.
            first = group.places[0]
            mixed = combine([logits[row].float() for row in group.rows], first.weights, first.mix)
            if first.broken is not None:
                mixed[first.broken] = -math.inf  # it says one thing, and that is not so
            for row in group.rows:
                logits[row] = mixed
            self.was_combined(group, mixed)
        return logits

    def not_whole(self, group: Group, logits: Any) -> None:
        """What becomes of a group that is not in step."""
        ends = group.places[0].broken
        if ends is not None:
            for row in group.rows:  # of one that is still reading its prompt nothing is drawn
                logits[row] = -math.inf
                logits[row, ends] = 0.0
        elif group.why:
            raise RuntimeError(f"the streams of {group.name!r} have lost step: {group.why}")

    def was_combined(self, group: Group, mixed: Any) -> None:
        """Hear of a group that was combined in this step, and of its scores [tokens]."""


class Watched(Contrast):
    """For who takes the steps in the same process (`vllm_loop.py`): tells what it combined, and leaves the rest to them."""

    combined: ClassVar[dict[str, Any]] = {}
    """The groups that the last step combined, with their scores [tokens]."""
    apart: ClassVar[dict[str, str]] = {}
    """Those that it found not to be in step, and why, where it can be said."""

    def apply(self, logits: Any) -> Any:
        """As `Contrast.apply`; raises nothing."""
        self.combined.clear()
        self.apart.clear()
        return super().apply(logits)

    def not_whole(self, group: Group, logits: Any) -> None:
        """Note it; its tokens are not used."""
        self.apart[group.name] = group.why

    def was_combined(self, group: Group, mixed: Any) -> None:
        """Note it."""
        self.combined[group.name] = mixed
