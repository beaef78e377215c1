"""The rows of vLLM's batch: what comes, goes, moves and changes places, and which of them are in step."""

from __future__ import annotations

import random
from typing import Any

import pytest

from composer.engines.vllm_rows import Group, Rows, extra_of, place_of
from composer.types import Mix

MIX = Mix("logit", 0.1)


def part(group: str, place: int, streams: int = 2, **more: Any) -> dict[str, Any]:
    return extra_of(group, place, [1.5, -0.5, 0.25][:streams], MIX) | more


def found(rows: Rows) -> dict[str, Group]:
    return {group.name: group for group in rows.groups()}


def test_what_is_written_is_what_is_read() -> None:
    place = place_of(extra_of("g", 1, (1.5, -0.5), Mix("prob", 0.25, 1, 0.9)))

    assert place is not None
    assert (place.group, place.place, place.weights) == ("g", 1, (1.5, -0.5))
    assert place.mix == Mix("prob", 0.25, 1, 0.9) and place.broken is None
    assert place_of({}) is None and place_of(None) is None and place_of({"other": 1}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"contrast_place": 2},
        {"contrast_place": -1},
        {"contrast_place": None},
        {"contrast_weights": [1.0]},
        {"contrast_weights": "abc"},
        {"contrast_alpha": 2.0},
        {"contrast_space": "sound"},
        {"contrast_mask_from": 2},
        {"contrast_top_p": 0.0},
    ],
)
def test_what_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="contrast_"):
        place_of(part("g", 0) | wrong)


def test_a_group_is_whole_while_all_its_rows_say_the_same() -> None:
    rows, one, two = Rows(), list[int](), list[int]()
    rows.update(added=[(3, part("g", 1), two), (0, part("g", 0), one), (1, None, [7])])

    assert found(rows)["g"].whole and found(rows)["g"].rows == (0, 3), "in the order of the streams"
    one.append(5), two.append(5)
    assert found(rows)["g"].whole
    one.append(6)
    assert found(rows)["g"].why == "its streams have written 2, 1 tokens"
    two.append(9)
    assert found(rows)["g"].why == "its streams have written the tokens 6, 9"


def test_nobody_knows_of_a_row_that_is_late_before_the_first_token() -> None:
    rows, one = Rows(), list[int]()
    rows.update(added=[(0, part("g", 0), one)])

    assert (found(rows)["g"].whole, found(rows)["g"].why) == (False, "")
    one.append(5)
    assert found(rows)["g"].why == "streams 0 of 2 are in the batch"


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (part("g", 0), "streams 0, 0 of 2"),
        (part("g", 1, contrast_weights=[1.5, -0.4]), "different weights"),
        (part("g", 1, contrast_alpha=0.2), "different weights or mixes"),
    ],
)
def test_rows_that_do_not_fit_together_are_no_group(second: dict[str, Any], why: str) -> None:
    rows = Rows()
    rows.update(added=[(0, part("g", 0), []), (1, second, [])])

    assert why in found(rows)["g"].why


def test_rows_go_move_and_change_places() -> None:
    rows = Rows()
    rows.update(added=[(0, part("a", 0), []), (1, part("a", 1), []), (2, part("b", 0), []), (3, part("b", 1), [])])
    rows.update(removed=[0, 1], moved=[(3, 0, False)])
    assert {name: group.rows for name, group in found(rows).items()} == {"b": (2, 0)}

    rows.update(moved=[(0, 2, True)])
    assert found(rows)["b"].rows == (0, 2)
    rows.update(moved=[(2, 5, True)])  # with a row of nobody's
    assert found(rows)["b"].rows == (0, 5)
    rows.update(added=[(5, None, [])])  # a plain request takes the row of one that is gone
    assert not found(rows)["b"].whole
    rows.update(removed=[0])
    assert not rows and not found(rows)


def test_a_row_that_is_removed_and_taken_in_one_step_is_the_new_one() -> None:
    rows = Rows()
    rows.update(added=[(0, part("a", 0), []), (1, part("a", 1), [])])
    rows.update(removed=[0, 1], added=[(0, part("b", 0), []), (1, part("b", 1), [])])

    assert list(found(rows)) == ["b"]


@pytest.mark.parametrize("seed", range(20))
def test_after_many_steps_the_rows_are_where_the_batch_says(seed: int) -> None:
    """A batch like vLLM's (`InputBatch`): new rows take the lowest that are free, then gaps are closed from the end."""
    draw, rows = random.Random(seed), Rows()
    batch: list[tuple[str, int, list[int]] | None] = []
    groups = 0
    for _ in range(200):
        present = sorted({row[0] for row in batch if row is not None})
        gone = {name for name in present if draw.random() < 0.2}
        removed = [i for i, row in enumerate(batch) if row is not None and row[0] in gone]
        for i in removed:
            batch[i] = None
        free = sorted(removed)
        added = []
        for _ in range(draw.randrange(3)):
            streams, groups = draw.choice([1, 2, 3]), groups + 1
            for place in range(streams):
                at = free.pop(0) if free else len(batch)
                written: list[int] = []
                own = (f"g{groups}", place, written)
                if at == len(batch):
                    batch.append(own)
                else:
                    batch[at] = own
                added.append((at, part(f"g{groups}", place, streams) if streams > 1 else None, written))
        moved = []
        while None in batch:
            if batch[-1] is None:
                batch.pop()
                continue
            gap = batch.index(None)
            moved.append((len(batch) - 1, gap, False))
            batch[gap] = batch.pop()
        if len(batch) > 2 and draw.random() < 0.5:
            one, other = draw.sample(range(len(batch)), 2)
            moved.append((one, other, True))
            batch[one], batch[other] = batch[other], batch[one]
        rows.update([i for i in removed if i in free], added, moved)

        wanted: dict[str, dict[int, int]] = {}
        for i, row in enumerate(batch):
            assert row is not None
            wanted.setdefault(row[0], {})[row[1]] = i
        pairs = {name: tuple(places[p] for p in sorted(places)) for name, places in wanted.items() if len(places) > 1}
        assert {name: group.rows for name, group in found(rows).items()} == pairs
        assert all(group.whole for group in found(rows).values())
        token = draw.randrange(100)
        for row in batch:
            assert row is not None
            row[2].append(token)
