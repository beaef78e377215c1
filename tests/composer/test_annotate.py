"""Annotation of questions with skills: what is asked, and how the replies are read."""

from __future__ import annotations

from composer.annotate import annotation_requests, annotator, keywords_by_text
from composer.pipeline import Pipeline
from composer.registry.experts import Registry
from composer.types import Draft, Failure


def draft(text: str, stop: str = "stop", error: Failure | None = None) -> Draft:
    return Draft(key="k", text=text, stop=stop, error=error)  # type: ignore[arg-type]


def test_every_question_is_asked_five_times_as_annotation(packaged: Registry) -> None:
    requests = annotation_requests(["What is 2 + 2?", "Sort b, a"], "general", packaged)

    assert [request.id for request in requests[:6]] == ["0:0", "0:1", "0:2", "0:3", "0:4", "1:0"]
    assert {request.role for request in requests} == {"annotate"}
    assert {request.sample for request in requests} == set(range(5))
    assert all(request.sampling.temperature == 0.7 for request in requests)
    assert "What is 2 + 2?" in str(requests[0].streams[0].prompt)


def test_the_packaged_generalist_annotates_through_the_pool_and_the_store_keeps_it() -> None:
    with Pipeline.from_file(None) as pipeline:
        annotate = annotator(pipeline, "general")
        first = annotate(["What is 47 + 38?"])
        asked = pipeline.ledger.drafts
        again = annotate(["What is 47 + 38?"])

    assert asked == 5
    assert first == again
    assert annotate([]) == []


def test_failed_and_cut_replies_say_nothing() -> None:
    drafts = {
        "0:0": draft("Keywords: sums, addition"),
        "0:1": draft("Keywords: sums"),
        "0:2": draft("Keywords: addition", stop="length"),
        "1:0": draft("Keywords: order"),
    }
    assert keywords_by_text(2, drafts) == [("sums",), ()]
