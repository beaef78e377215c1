"""Which hosts the drafts of an arm come from, what it is contrasted with included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from composer.pool.queues import AND
from composer.registry.experts import Registry
from composer.settings.contrast import FITTED

if TYPE_CHECKING:
    from composer.records.contrasts import ContrastRecord


def experts_of(registry: Registry, arm: str) -> tuple[str, ...]:
    """The expert of an arm (or one that writes, by its name), and that which it is contrasted with where that stands on
    another base; all the others whom it may be contrasted with stand on its own."""
    known = registry.settings.arms.get(arm)
    expert = arm if known is None else known.expert
    spec = known.contrast if known is not None else None
    if spec is None or spec.against not in registry.settings.experts:
        return (expert,)
    return (expert,) if registry.host_of(spec.against) == registry.host_of(expert) else (expert, spec.against)


def served_by(registry: Registry, arm: str) -> str:
    """The host of the arm: `large&small` where it is contrasted with an expert on another base."""
    return AND.join(registry.host_of(expert) for expert in experts_of(registry, arm))


def put_on(registry: Registry, records: Callable[[], Mapping[str, ContrastRecord]]) -> dict[str, str]:
    """The arms that the stage `contrast` of the registry's `pipeline:` decodes as another one: plain to declared arm.
    `records` gives those that were shown to help; it is asked only where the stage takes them."""
    step = next((step for step in registry.settings.pipeline if step.use == "contrast"), None)
    if step is None:
        return {}
    use = str(step.options.get("use", FITTED))
    if use == FITTED:
        return {plain: record.arm for plain, record in records().items()}
    declared = reversed(registry.settings.contrasting)  # of several the first counts
    return {arm.plain: arm.name for arm in declared if arm.contrast is not None and arm.contrast.name == use}
