"""Which wishes of a row a pipeline cannot honour, said before anything is asked: a row that fails late costs the batch."""

from __future__ import annotations

from collections.abc import Callable

from composer.jsonl import Question
from composer.settings.specs import Settings


def refusal(settings: Settings) -> Callable[[Question], str | None]:
    """Why a question cannot be answered as it asks to be under this registry, or None. Who will be asked is not known
    yet, so what any expert could not do is refused."""
    longest = max(model.context for model in settings.models.values())
    options = next(step.options for step in settings.pipeline if step.use == "generate")
    samples = int(options.get("samples", 1))
    plain = next((e.name for e in settings.experts.values() if settings.models[e.model].completion), None)

    def why(question: Question) -> str | None:
        wishes = question.wishes
        if wishes.max_tokens is not None and wishes.max_tokens > longest:
            return f"in `body`: max_tokens: {wishes.max_tokens}, at most {longest} fit into any model of the registry"
        if samples > 1 and wishes.temperature == 0:
            return f"in `body`: temperature: at 0 the {samples} samples that the pipeline draws would be equal"
        if question.turns and plain is not None:
            return f"in `body`: messages: {plain} continues text and knows no turns; send one user message"
        return None

    return why
