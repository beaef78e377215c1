"""What decides and combines in a pipeline: as it was fitted and installed for its registry, else fitted now, or plain."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from composer.plugins import load
from composer.registry.experts import Registry
from composer.settings.contrast import UNCHOSEN
from composer.settings.specs import Settings
from routers.baselines import Unprofiled
from routers.errors import RouterError
from routers.types import Outcomes, Questions, Router

if TYPE_CHECKING:
    from composer.answers.ballots import Aggregator
    from composer.planning.memory import Known
    from composer.profile import Profile
    from composer.records.contrasts import ContrastRecord
    from composer.records.personas import PersonaRecord
    from composer.records.scorer import ScorerRecord
    from composer.retrieval.records import GateRecord

LEARNT = "learnt"  # the aggregator that exists only after `coe fit answers`
_CHARS = 3  # per token, in short answers with numbers
AUTO_ROUTER = "auto"  # the router that `coe fit router` has installed, else the skill router


def combiner(registry: Registry, name: str) -> Aggregator:
    """The aggregator `name`: as `coe fit answers` installed it, else as it is before it has learnt anything. Raises
    InputError for `learnt` where none is installed, or one that cannot be read."""
    from composer.places import answers_folder  # noqa: PLC0415 pyarrow: only where there is something to combine

    plain = load("aggregators", name, "by")
    if name == LEARNT or answers_folder(registry).exists():
        from composer.learning.answers import installed_aggregator  # noqa: PLC0415 only where there may be one

        found: Aggregator = installed_aggregator(registry)
        if type(found) is plain:
            return found
    return cast("Aggregator", plain())


def decider(registry: Registry, name: str, say: Callable[[str], None]) -> Router:
    """The router `name`, fitted on the profile that goes with this registry; where there is nothing to choose, or nothing
    to choose by, one that leaves everything to the generalist."""
    every, generalist = registry.arms(), registry.generalist
    if len(every) == 1:
        return Unprofiled(every, generalist, "it is the only expert")
    from composer.profile import find_profile  # noqa: PLC0415 pyarrow: only where there is a choice

    profile, notes = find_profile(registry)
    for note in notes:
        say(note)
    known = profile.known
    if not known:
        return Unprofiled(every, generalist)
    if known == {generalist}:
        return Unprofiled(every, generalist, "no other expert has a record yet")
    questions, outcomes = _learnt_from(registry, profile)
    if name == AUTO_ROUTER:
        found = _installed(registry, questions, outcomes, say)
        if found is not None:
            return found
    make = load("routers", name)
    takes = "generalist" in inspect.signature(make).parameters
    router: Router = make(generalist=generalist) if takes else make()
    from routers.coverage import CoveredRouter  # noqa: PLC0415 only where there is a choice

    return CoveredRouter(router, generalist).fit(questions, outcomes)


def gates_of(registry: Registry, say: Callable[[str], None]) -> dict[str, GateRecord]:
    """What `coe fit gate` installed, by the arm that reads; of arms that have changed since then nothing, and the user is
    told. Raises InputError where it cannot be read."""
    from composer.places import gates_folder  # noqa: PLC0415 pyarrow: only where there is something to weigh
    from composer.retrieval.records import read_records  # noqa: PLC0415

    found, stale = read_records(gates_folder(registry), registry.prints(), encoder=registry.encoder_sha)
    if stale:
        say(f"the gates of {', '.join(stale)} are of other weights, passages or settings and left out: coe fit gate")
    elif not found:
        say("no gate is fitted for this registry, so every arm is asked as it was chosen: coe fit gate")
    return found


def contrasts_of(registry: Registry, say: Callable[[str], None]) -> dict[str, ContrastRecord]:
    """What `coe fit contrast` installed, by plain arm; of arms that have changed since then nothing, and the user is told.
    Raises InputError where it cannot be read."""
    from composer.folders import mend  # noqa: PLC0415
    from composer.places import contrasts_folder  # noqa: PLC0415
    from composer.records.contrasts import read_contrasts  # noqa: PLC0415 only where there may be some

    folder = contrasts_folder(registry)
    mend(folder)  # before it is asked whether it is there
    found, stale = read_contrasts(folder, contrast_prints(registry) if folder.exists() else {})
    if stale:
        say(
            f"the contrasts of {', '.join(stale)} are of other weights, settings or another router and left out: "
            "coe fit contrast"
        )
    return found


def personas_of(
    registry: Registry, intents: Callable[[], str], say: Callable[[str], None]
) -> tuple[PersonaRecord, ...]:
    """What `coe fit gate` measured of personas; of arms that have changed since then nothing, and the user is told. `intents` is
    the digest of what tells them. Raises InputError where it cannot be read."""
    from composer.folders import mend  # noqa: PLC0415 only where there may be some
    from composer.places import personas_folder  # noqa: PLC0415
    from composer.records.personas import read_personas  # noqa: PLC0415

    folder = personas_folder(registry)
    mend(folder)  # before it is asked whether it is there
    if not folder.exists():
        say("no gate is fitted for personas, so every expert speaks as itself: coe fit gate")
        return ()
    found, stale = read_personas(folder, registry.prints(), intents())
    if stale:
        say(
            f"the gates of {', '.join(stale)} are of other weights, settings, intents or an older form and left out: coe fit gate"
        )
    return found


def plans_of(registry: Registry, planner: str, say: Callable[[str], None]) -> Known:
    """The plans that `coe fit answers --plans` learnt with this planner; of another one none, and the user is told. Raises InputError
    where they cannot be read, or are of another encoder."""
    from composer.places import plans_folder  # noqa: PLC0415 pyarrow: only where somebody plans
    from composer.planning.memory import planner_print, read_memory  # noqa: PLC0415

    folder, own = plans_folder(registry), planner_print(registry, planner)
    found = read_memory(folder, encoder=registry.encoder_sha, planner=own)
    if found.why:
        say(f"{found.why}: coe fit answers --plans FILE")
    return found


def scorers_of(registry: Registry, say: Callable[[str], None]) -> dict[str, ScorerRecord]:
    """What `coe fit answers --scorer` installed, by the expert that rates; of experts that have changed since then nothing, and
    the user is told. Raises InputError where it cannot be read."""
    from composer.places import scorers_folder  # noqa: PLC0415 pyarrow: only where there is something to rate
    from composer.records.scorer import read_scorers  # noqa: PLC0415

    found, stale = read_scorers(scorers_folder(registry), registry.prints())
    if stale:
        say(
            f"the scorers of {', '.join(stale)} are of other weights or settings and left out: coe fit answers --scorer"
        )
    return found


def contrast_prints(registry: Registry) -> dict[str, str]:
    """What the record of each arm's contrast belongs to: the arm's print, and where the router says who the partner is,
    also that of the router. Raises ConfigError where the profile cannot be read."""
    prints = registry.prints()
    ranked = [arm.name for arm in registry.settings.contrasting if arm.contrast and arm.contrast.against == UNCHOSEN]
    if ranked:
        router = _router_print(registry, decided_by(registry.settings))
        prints |= {name: hashlib.sha256(f"{prints[name]} {router}".encode()).hexdigest() for name in ranked}
    return prints


def decided_by(settings: Settings) -> str:
    """The name of the router that the registry's `pipeline:` decides by."""
    options = next((step.options for step in settings.pipeline if step.use == "decide"), {})
    return str(options.get("router", AUTO_ROUTER))


def typical_tokens(registry: Registry) -> dict[str, float]:
    """How many tokens an answer of each measured arm has on average, by the characters it has on the profile."""
    from composer.profile import find_profile  # noqa: PLC0415 pyarrow: only where somebody foretells

    profile, _ = find_profile(registry)
    if not profile.known:
        return {}
    outcomes = profile.outcomes(profile.columns()[0], [arm for arm in registry.arms() if arm.name in profile.known])
    places = range(len(outcomes.arms))
    lengths = [outcomes.length[outcomes.arm == place] for place in places]
    means = {outcomes.arms[place].name: float(lengths[place].mean()) for place in places if len(lengths[place])}
    return {name: max(1.0, mean / _CHARS) for name, mean in means.items()}


def _learnt_from(registry: Registry, profile: Profile) -> tuple[Questions, Outcomes]:
    """What routers are fitted on. Without a record, too, the generalist takes what is nobody's skill."""
    questions, _ = profile.columns()
    arms = [arm for arm in registry.arms() if arm.name in profile.known or arm.name == registry.generalist]
    return questions, profile.outcomes(questions, arms)


def _router_print(registry: Registry, name: str) -> str:
    """The sha256 of all that decides how the router `name` ranks the arms."""
    from composer.places import has_router, router_folder  # noqa: PLC0415 pyarrow: only where there may be a contrast
    from composer.profile import find_profile  # noqa: PLC0415
    from routers.store import fingerprint  # noqa: PLC0415

    told = [name, registry.encoder_sha, registry.generalist, *(f"{arm.name} {arm.price}" for arm in registry.arms())]
    profile, _ = find_profile(registry)
    if profile.known:
        told.append(fingerprint(*_learnt_from(registry, profile)))
    if name == AUTO_ROUTER and has_router(registry):
        files = sorted(path for path in router_folder(registry).iterdir() if path.is_file())
        told += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _installed(
    registry: Registry, questions: Questions, outcomes: Outcomes, say: Callable[[str], None]
) -> Router | None:
    """What `coe fit router` has installed; where that is of another profile, the user is told."""
    from composer.places import has_router  # noqa: PLC0415 imported before this is asked

    if not has_router(registry):
        return None
    from composer.learning.router import installed_router  # noqa: PLC0415 only where there is one

    try:
        return installed_router(registry, questions, outcomes)
    except RouterError as why:
        say(f"{why}; meanwhile the skill router decides")
        return None
