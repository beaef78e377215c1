"""Which rows a merger or a judge is wanted for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.state import Reply, State


def disputed(state: State) -> list[int]:
    """The rows of which nobody else is asked, and that nobody has merged or judged yet."""
    return [
        row
        for row, still in enumerate(state.open)
        if not still and state.merged[row] is None and state.abstained[row] is None and not state.withheld[row]
    ]


def needless(own: Sequence[Reply], believed: float, sure: float) -> str | None:
    """Why a merger is not asked; None: it is."""
    codes = np.array([reply.code for reply in own if reply.code >= 0])
    if len(codes) < 2:
        return "fewer than two drafts hold an answer"
    if (codes == codes[0]).all():
        return "all drafts say the same"
    if believed >= sure:
        return f"the vote is sure enough ({believed:.2f})"
    return None
