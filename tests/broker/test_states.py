"""The table of a worker's life, and the picture made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ragpool.broker import states
from ragpool.broker.states import TRANSITIONS, IllegalTransition, WorkerState, diagram

PAGE = Path(__file__).resolve().parents[2] / "docs" / "states.md"


def test_the_page_in_docs_shows_the_table_as_it_is() -> None:
    assert diagram() in PAGE.read_text(), "docs/states.md is stale: put the text of ragpool.broker.states.diagram() there"


@pytest.mark.parametrize(("state", "event"), sorted(TRANSITIONS))
def test_a_listed_step_is_taken(state: str, event: str) -> None:
    worker = WorkerState(state, 0.0)
    worker.on(event, 1.0)
    assert worker.name == TRANSITIONS[state, event]


def test_an_unlisted_step_raises_with_the_story() -> None:
    worker = WorkerState(states.READY, 0.0)
    worker.on(states.LOST, 1.0)
    with pytest.raises(IllegalTransition, match=r"heard in dead; history .*joined.*lost"):
        worker.on(states.HEARD, 2.0)


def test_every_state_can_end_and_the_end_is_final() -> None:
    assert {state for state, event in TRANSITIONS if event == states.LOST} == {"loading", "ready", "suspect", "draining"}
    assert not [step for step in TRANSITIONS if step[0] == states.DEAD]
