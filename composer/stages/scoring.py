"""What a router says of texts: embed once, score all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.stages.kit import Kit
from routers.baselines import Unprofiled
from routers.types import Array, Questions, Reason, Router, weighed


def scored(kit: Kit, router: Router, ids: Sequence[str], texts: Sequence[str]) -> tuple[Array, Sequence[Reason]]:
    """The scores [text, arm] and the reasons."""
    blind = isinstance(router, Unprofiled)  # then no encoder is needed, and there may be none
    vectors = np.zeros((len(texts), 0), dtype=np.float32) if blind else kit.encoder().encode(texts)
    return weighed(router, Questions(ids=tuple(ids), text=tuple(texts), vectors=vectors))
