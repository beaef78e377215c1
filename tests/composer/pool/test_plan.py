"""The plan: who is opened when, and which prompt follows which."""

from __future__ import annotations

from composer.pool.plan import make_plan
from composer.types import Request, Stream

HOSTS = {"base": "small", "sums": "small", "sorts": "small", "law": "large"}


def request(name: str, expert: str, prompt: str, priority: int = 0) -> Request:
    adapter = expert if expert in ("sums", "sorts") else None
    return Request(name, (Stream(expert, prompt, adapter),), priority=priority)


def test_requests_are_grouped_by_host_and_adapter() -> None:
    requests = [
        request("1", "sums", "x"),
        request("2", "law", "x"),
        request("3", "base", "x"),
        request("4", "sums", "y"),
    ]

    plan = make_plan(requests, HOSTS.__getitem__)

    assert [batch.host for batch in plan.batches] == ["small", "large"]
    assert [[r.id for r in lane.requests] for lane in plan.batches[0].lanes] == [["3"], ["1", "4"]]
    assert plan.batches[0].adapters == ("sums",)


def test_what_is_open_already_goes_first() -> None:
    requests = [request("1", "base", "x"), request("2", "law", "x")]

    plan = make_plan(requests, HOSTS.__getitem__, resident=["large"])

    assert [batch.host for batch in plan.batches] == ["large", "small"]


def test_prompts_with_a_common_beginning_stand_side_by_side() -> None:
    prompts = ["Sort: b", "Add: 1", "Sort: a", "Add: 2"]

    plan = make_plan([request(text, "base", text) for text in prompts], HOSTS.__getitem__)

    assert [r.id for r in plan.batches[0].requests] == ["Add: 1", "Add: 2", "Sort: a", "Sort: b"]


def test_urgent_requests_of_a_lane_come_first() -> None:
    requests = [request("a", "base", "a"), request("z", "base", "z", priority=1)]

    plan = make_plan(requests, HOSTS.__getitem__)

    assert [r.id for r in plan.batches[0].requests] == ["z", "a"]


def test_equal_input_gives_an_equal_plan() -> None:
    requests = [request(str(i), ("base", "sums", "law")[i % 3], str(i)) for i in range(30)]

    assert make_plan(requests, HOSTS.__getitem__) == make_plan(list(requests), HOSTS.__getitem__)
