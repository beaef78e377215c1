"""What an arm is sent for a question."""

from __future__ import annotations

from composer.errors import RequestError
from composer.stages.kit import Arms
from composer.state import Query
from composer.types import Evidence, Message, Prompt


def prompt_of(registry: Arms, query: Query, arm: str, read: Evidence | None) -> Prompt:
    """The question as the arm wants it, what it is given to read before it, after what was said before. Many chat templates
    take one system message, at the beginning: the expert's own and those that begin the conversation become one. Raises
    RequestError for an expert that knows no turns."""
    question = registry.messages(arm, read.text + query.prompt if read else query.prompt)
    if not query.turns:
        return question
    if isinstance(question, str):
        raise RequestError(
            f"{arm} continues text and knows no turns: it was given {len(query.turns)} messages before the question",
            remedy="send it one user message, or ask a model that chats",
        )
    first = next((i for i, turn in enumerate(query.turns) if turn.role != "system"), len(query.turns))
    system = [turn.content for turn in (*question[:-1], *query.turns[:first])]
    head = (Message("system", "\n\n".join(system)),) if system else ()
    return (*head, *query.turns[first:], question[-1])
