"""decide: embed once, score the arms, and let the policy say who is asked next."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from types import ModuleType
from typing import Annotated, Any, ParamSpec, TypeVar

from annotated_types import Ge, Le

from composer.errors import ConfigError
from composer.plugins import check_options, load, names
from composer.stages.kit import Kit, Stage
from composer.stages.scoring import scored
from composer.state import Course, State, Update
from composer.trace import Routed
from routers.select import Levelling, Rule
from routers.types import Abstain, Arm, Array, Ask, Policy, Reason, Router

P = ParamSpec("P")
T = TypeVar("T")
USUAL, FIXED = "top-k", "fixed"


def decide(
    kit: Kit,
    *,
    router: str = "auto",
    policy: str | dict[str, Any] = FIXED,
    abstain_below: Annotated[float, Ge(0), Le(1)] = 0.0,
    doubt: bool = False,
    select: str | dict[str, Any] = USUAL,
    k: Annotated[int, Ge(1)] | None = None,
) -> Stage:
    """Let `policy` say who is asked, by the scores of `router` (`auto`: what `coe fit router` installed, else skill).

    `fixed` asks whom the rule `select` chooses, once; the others (`agreeing`, `posterior`, `cascade`, `worth`) ask one arm
    after the other and look at the answers; `prism` asks one, two or all strategies of an expert, by how sure the scores are. `policy` and `select` are names, or `{use: NAME}` with options; `k` is short
    for `select: {use: top-k, k: …}`; one beyond the arms that there are asks all of them, and the reason says so. With `doubt` a question that is flagged (outside the profile, or on a border) is also
    put to an arm of another domain, and where they disagree to the generalist. A row whose answers are believed less than
    `abstain_below` is not answered. A ConfigError about an option has the option's name as its `where`: who reads the
    file knows the line.
    """
    load("routers", router, "router")  # fitted on the first question, but a misspelt name is told before
    name, rule = _rule(kit, select, k)
    chooser = policy_of(kit, policy=policy, abstain_below=abstain_below, doubt=doubt, select=select, k=k)

    async def stage(state: State) -> Update:
        judge = kit.router(router)
        update: Update = {}
        if state.scores is None:
            update = await _aside(_score, kit, judge, state)
            state = state.apply(update)
        scores = state.scores
        assert scores is not None
        rows = [i for i, is_open in enumerate(state.open) if is_open]
        seen = state.seen
        decisions = chooser.next(scores[rows], judge.arms, [seen[i] for i in rows])
        asked, reasons = list(state.asked), list(state.reasons)
        asking = [row for row, decision in zip(rows, decisions, strict=True) if isinstance(decision, Ask)]
        note = _note(name, rule, scores[asking], judge.arms)
        wanted: list[tuple[str, ...]] = [()] * len(asked)
        still, abstained = list(state.open), list(state.abstained)
        for row, decision in zip(rows, decisions, strict=True):
            if isinstance(decision, Ask):
                wanted[row] = decision.arms
                asked[row] += decision.arms
                reasons[row] = _noted(reasons[row], note)
                by_arm = {arm.name: float(score) for arm, score in zip(judge.arms, scores[row], strict=True)}
                kit.emit(Routed(state.queries[row].id, decision.arms, by_arm, asdict(reasons[row])))
            else:
                still[row] = False
                abstained[row] = decision.why if isinstance(decision, Abstain) else None
        return {
            **update,
            "reasons": tuple(reasons),
            "asked": tuple(asked),
            "wanted": tuple(wanted),
            "open": tuple(still),
            "abstained": tuple(abstained),
            "round": state.round + 1,
            "course": Course(chooser, tuple(judge.arms)),
        }

    return stage


def policy_of(
    kit: Kit,
    *,
    policy: str | dict[str, Any] = FIXED,
    abstain_below: float = 0.0,
    doubt: bool = False,
    select: str | dict[str, Any] = USUAL,
    k: int | None = None,
    **_others: Any,
) -> Policy:
    """The policy that `decide` would use with these options. Raises ConfigError as it does."""
    _, rule = _rule(kit, select, k)
    chooser = _policy(kit, policy, rule, "k" if k is not None else "select" if select != USUAL else None)
    if doubt:
        from routers.doubting import Doubting  # noqa: PLC0415 - only who doubts needs it

        chooser = Doubting(chooser, kit.registry.generalist)
    if abstain_below:
        from routers.stopping import Abstaining  # noqa: PLC0415 - only who abstains needs it

        chooser = Abstaining(chooser, abstain_below)
    return chooser


def alone(arm: str) -> Stage:
    """Ask this arm and no other, once: no router has a say. For who names an expert."""

    async def stage(state: State) -> Update:
        wanted = ((arm,),) * len(state.queries)
        reason = replace(Reason(), note=f"{arm} was asked by name")
        return {
            "reasons": (reason,) * len(wanted),
            "asked": wanted,
            "wanted": wanted,
            "open": (False,) * len(wanted),
            "round": state.round + 1,
        }

    return stage


def _policy(kit: Kit, policy: str | dict[str, Any], rule: Rule, chosen: str | None) -> Policy:
    """The policy with its options; `chosen` is the option that set the rule, if any did. Raises ConfigError at the option
    that is wrong."""
    name, options = _named(policy, "policy", names("policies"), "policy: {use: posterior, confidence: 0.9}")
    make = load("policies", name, "policy")
    if "rule" in inspect.signature(make).parameters:
        if options:
            option = next(iter(options))
            raise ConfigError(
                f"the policy {name} has no option {option!r}",
                where=f"policy.{option}",
                remedy="say who is asked with `select:` beside `policy:`",
            )
        asks: Policy = make(rule=rule)
        return asks
    if chosen is not None:
        raise ConfigError(
            f"the policy {name} asks arms in the order of their scores, so `{chosen}` has no say",
            where=chosen,
            remedy=f"remove it, or write `policy: {FIXED}`",
        )
    checked = check_options(make, options, lambda option: f"policy.{option}")
    if "expert_of" in inspect.signature(make).parameters:
        checked = {"expert_of": _experts(kit), **checked}
    made: Policy = make(**checked)
    return made


def _experts(kit: Kit) -> dict[str, str]:
    """Whose strategy each arm is; one that reads is no strategy, and on its own."""
    arms = [arm.name for arm in kit.registry.arms()]
    return {arm: arm if kit.registry.evidence(arm) else kit.registry.stream(arm, "").expert for arm in arms}


def _named(told: str | dict[str, Any], option: str, known: Sequence[str], example: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of `NAME` or `{use: NAME, …}`."""
    options: dict[str, Any] = dict(told) if isinstance(told, dict) else {"use": told}
    name = options.pop("use", None)
    if not isinstance(name, str):
        what = {"select": "rule"}.get(option, option)
        raise ConfigError(
            f"`use` names no {what}", where=option, remedy=f"write `{example}`; known: {', '.join(known)}"
        )
    return name, options


def _rule(kit: Kit, select: str | dict[str, Any], k: int | None) -> tuple[str, Rule]:
    """The name of the rule and the rule itself. Raises ConfigError at the option that is wrong."""
    name, options = _named(select, "select", names("rules"), "select: {use: top-p, p: 0.5}")
    make = load("rules", name, "select")
    if k is not None:
        if select != USUAL:
            raise ConfigError(
                f"`k` is short for `select: {{use: {USUAL}, k: {k}}}`, and `select` says something else",
                where="k",
                remedy="remove it, or write it into `select`",
            )
        options["k"] = k
    checked = check_options(make, options, lambda option: f"select.{option}")
    if "group_of" in inspect.signature(make).parameters:
        hosts = {arm.name: kit.registry.host_of(arm.name) for arm in kit.registry.arms()}
        checked = {"group_of": hosts, **checked}
    return name, make(**checked)


def _note(name: str, rule: Rule, scores: Array, arms: Sequence[Arm]) -> str | None:
    """What the reasons tell of a rule that is not the usual one, or that wants more arms than there are."""
    if name == USUAL:
        most = getattr(rule, "k", 1)
        return f"k is {most}, more than the {len(arms)} arms that there are" if most > len(arms) else None
    if isinstance(rule, Levelling):
        given = rule.given_up(scores, arms)
        return f"chosen by {name}, which gives up {given:.3f} of score per question of this batch"
    return f"chosen by {name}"


def _noted(reason: Reason, note: str | None) -> Reason:
    return reason if note is None else replace(reason, note=f"{reason.note}; {note}" if reason.note else note)


async def _aside(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` beside the event loop, so that it goes on meanwhile; where none runs, do it here."""
    asyncio = sys.modules.get("asyncio")  # 25 ms to import, and nobody is in a loop who never did
    if asyncio is None or not _in_loop(asyncio):
        return work(*args, **kwargs)
    found: T = await asyncio.to_thread(work, *args, **kwargs)
    return found


def _in_loop(asyncio: ModuleType) -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _score(kit: Kit, router: Router, state: State) -> Update:
    ids, texts = ([getattr(query, name) for query in state.queries] for name in ("id", "prompt"))
    scores, reasons = scored(kit, router, ids, texts)
    return {"scores": scores, "reasons": tuple(reasons), "arms": tuple(arm.name for arm in router.arms)}
