"""New processes for all slots: what is next, for slots as they are. Literal looks in, actions out."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from ragpool.supervisor.exits import AGAIN, FAULT, OPERATOR, Exit
from ragpool.supervisor.policy import (
    BACKOFF,
    QUARANTINED,
    RUNNING,
    STARTING,
    STOPPED,
    Ended,
    SlotPolicy,
    Spawned,
    Tick,
    Wanted,
)
from ragpool.supervisor.rollout import (
    DONE,
    FAILED,
    LOADING,
    RELOAD,
    REPLACING,
    RESTART,
    Abandon,
    Commit,
    Open,
    Place,
    Promote,
    Rollout,
)
from ragpool.supervisor.rules import RestartRules

OLD = Place(0, RUNNING, serves=0, index="old", version="v1")


def places(count: int = 2, **first: object) -> list[Place]:
    """All slots run the old version, but for what `first` says of slot 0."""
    return [replace(OLD, **first), *(replace(OLD, number=number) for number in range(1, count))]


def reload(index: str = "new") -> Rollout:
    return Rollout(RELOAD, 1, index, ("old", "v1"))


def new(number: int, **how: object) -> Place:
    return replace(Place(number, RUNNING, serves=1, index="new", version="v2"), **how)


def test_a_reload_beside_the_old_processes_from_beginning_to_end() -> None:
    rollout = reload()
    assert rollout.advance(places()) == [Open(0)]
    assert rollout.advance(places(beside=STARTING)) == []
    assert rollout.state == LOADING
    assert rollout.advance(places(beside=RUNNING, beside_version="v2")) == [Commit("v2"), Promote(0)]
    assert rollout.state == REPLACING
    assert rollout.advance([new(0, retiring=True), replace(OLD, number=1)]) == [], "the old one is not gone"
    assert rollout.advance([new(0), replace(OLD, number=1)]) == [Open(1)]
    last = replace(OLD, number=1, beside=RUNNING, beside_version="v2")
    assert rollout.advance([new(0), last]) == [Promote(1)]
    assert rollout.advance([new(0), new(1, retiring=True)]) == []
    assert rollout.advance([new(0), new(1)]) == []
    assert (rollout.state, rollout.told) == (DONE, "v1 -> v2, 2 workers replaced")


def test_without_room_the_old_process_goes_first() -> None:
    rollout = reload()
    assert rollout.advance(places()) == [Open(0)]
    assert rollout.advance(places()) == [], "it drains"
    assert rollout.advance(places(state=STARTING, serves=1, version="")) == []
    assert rollout.advance(places(serves=1, version="v2")) == [Commit("v2")]
    assert rollout.advance([new(0), replace(OLD, number=1)]) == [Open(1)]


@pytest.mark.parametrize("failures", [1, 2])
def test_a_first_process_that_fails_is_tried_twice(failures: int) -> None:
    rollout = reload()
    rollout.advance(places())
    said = [rollout.failed(0, "no luck", hopeless=False) for _ in range(failures)]
    assert said == [[], [Abandon(0)]][:failures]
    assert (rollout.state, rollout.active) == ((LOADING, True) if failures == 1 else (FAILED, False))
    assert rollout.told.startswith("slot 0 is tried again: no luck" if failures == 1 else "no luck; version v1 serves on")
    assert rollout.advance(places()) == []


def test_where_several_versions_serve_none_is_named_as_the_one_that_serves_on() -> None:
    rollout = reload()
    rollout.advance([OLD, new(1, serves=0)])
    rollout.failed(0, "the index is damaged", hopeless=True)
    assert rollout.told == "the index is damaged; what was there serves on"


def test_what_no_second_try_can_mend_ends_it_at_once() -> None:
    rollout = reload()
    rollout.advance(places())
    assert rollout.failed(0, "the index is damaged", hopeless=True) == [Abandon(0)]
    assert rollout.told == "the index is damaged; version v1 serves on"


REST = "the rest is as it was and follows when it is started again, or with the next reload"


def replacing(count: int = 2) -> Rollout:
    """Slot 0 has its new process, slot 1 is open."""
    rollout = reload()
    rollout.advance(places(count))
    rollout.advance(places(count, beside=RUNNING, beside_version="v2"))
    assert rollout.advance([new(0), *places(count)[1:]]) == [Open(1)]
    return rollout


def test_once_the_version_is_known_each_slot_has_two_tries() -> None:
    rollout = replacing(3)
    assert rollout.failed(1, "no luck", hopeless=False) == []
    loaded = replace(OLD, number=1, beside=RUNNING, beside_version="v2")
    assert rollout.advance([new(0), loaded, replace(OLD, number=2)]) == [Promote(1)]
    assert rollout.advance([new(0), new(1), replace(OLD, number=2)]) == [Open(2)]
    assert rollout.failed(2, "no luck", hopeless=False) == []
    assert rollout.active
    assert rollout.failed(2, "no luck", hopeless=False) == [Abandon(2)]
    assert (rollout.state, rollout.told) == (FAILED, f"no luck; 2 workers replaced, {REST}")
    hopeless = replacing()
    assert hopeless.failed(1, "no luck", hopeless=True) == [Abandon(1)]
    assert hopeless.told == f"no luck; 1 worker replaced, {REST}"


@pytest.mark.parametrize("words", [("exit code 1", FAULT), ("killed by SIGKILL", OPERATOR), ("asked for another", AGAIN)])
def test_ends_too_far_apart_for_a_quarantine_end_it_too(words: tuple[str, str]) -> None:
    """The new process of slot 1 ends after 40 s, again and again; its policy would go on for ever."""
    rollout, policy, now = replacing(), SlotPolicy("worker-1", RestartRules(), Random(1)), 0.0
    policy.receive(Wanted(), now)
    while rollout.active and now < 3600:
        policy.receive(Spawned(), now)
        assert rollout.advance([new(0), replace(OLD, number=1, beside=policy.state)]) == []
        now += 40
        policy.receive(Ended(Exit(*words, blame=False)), now)
        assert policy.state == BACKOFF
        rollout.failed(1, words[0], hopeless=False)
        now += policy.wait_s(now)
        policy.receive(Tick(), now)
    assert rollout.told == f"{words[0]}; 1 worker replaced, {REST}"
    assert now < 100


@pytest.mark.parametrize("beside", [QUARANTINED, ""])
def test_a_slot_that_may_have_no_process_now_ends_it(beside: str) -> None:
    """Nothing ended: the memory of a dead process is not free, or all slots of the device wait."""
    held = replace(OLD, number=1, beside=beside, held="1.0 GiB of cuda:0 are still held by process 7, which has ended")
    if not beside:
        held = replace(held, state=QUARANTINED, serves=None, version="")
    rollout = replacing()
    assert rollout.advance([new(0), held]) == [Abandon(1)]
    assert rollout.told == f"slot 1 is quarantined: {held.held}; 1 worker replaced, {REST}"
    first = reload()
    first.advance(places(1))
    assert first.advance([replace(held, number=0, held="")]) == [Abandon(0)]
    assert first.told == "slot 0 is quarantined; version v1 serves on"


def test_failures_elsewhere_are_not_its_own() -> None:
    rollout = reload()
    rollout.advance(places())
    assert rollout.failed(1, "an old one crashed", hopeless=True) == []
    assert rollout.active


def test_a_reload_of_what_is_served_already_replaces_nobody() -> None:
    rollout = reload("old")
    rollout.advance(places())
    assert rollout.advance(places(beside=RUNNING, beside_version="v1")) == [Commit("v1"), Abandon(0)]
    assert rollout.advance(places(retiring=True)) == [], "what was loaded for it is not gone"
    assert rollout.advance(places()) == []
    assert rollout.state == DONE
    assert rollout.told == "version v1 is what old still is: nothing to replace"
    drained_first = reload("old")
    drained_first.advance(places())
    assert drained_first.advance(places(serves=1)) == [Commit("v1")], "so that a respawn is pinned to it again"
    assert drained_first.advance(places(serves=1)) == []
    assert drained_first.state == DONE
    assert "nothing to replace" in drained_first.told


def test_a_slot_without_a_process_does_not_count_as_served() -> None:
    rollout = reload("old")
    rollout.advance(places())
    quarantined = [*places(1), replace(OLD, number=1, state=QUARANTINED, serves=None, version="")]
    rollout.advance([replace(quarantined[0], beside=RUNNING, beside_version="v1"), quarantined[1]])
    assert rollout.advance(quarantined) == []
    assert rollout.told == "version v1 is what old still is: nothing to replace, 1 worker to start"


@pytest.mark.parametrize("in_place", [False, True])
def test_what_an_earlier_reload_left_half_done_is_made_whole(in_place: bool) -> None:
    """Slot 0 serves v2, which is wanted; slots 1 and 2 still serve v1."""
    half = [new(0), replace(OLD, number=1), replace(OLD, number=2)]
    rollout = Rollout(RELOAD, 2, "new", ("new", "v2"))
    assert rollout.advance(half) == [Open(0)]
    if in_place:
        half[0] = new(0, serves=2)
        assert rollout.advance(half) == [Commit("v2")]
    else:
        assert rollout.advance([replace(half[0], beside=RUNNING, beside_version="v2"), *half[1:]]) == [Commit("v2"), Abandon(0)]
    for number in (1, 2):
        assert rollout.advance(half) == [Open(number)]
        half[number] = replace(half[number], beside=RUNNING, beside_version="v2")
        assert rollout.advance(half) == [Promote(number)]
        half[number] = new(number, serves=2)
    assert rollout.advance(half) == []
    assert (rollout.state, rollout.told) == (DONE, "2 workers replaced, version v2")


def test_the_way_back_from_a_half_done_reload_keeps_those_that_never_left() -> None:
    half = [replace(OLD, number=0), new(1)]
    rollout = Rollout(RELOAD, 2, "old", ("new", "v2"))
    assert rollout.advance(half) == [Open(0)]
    assert rollout.advance([replace(half[0], beside=RUNNING, beside_version="v1"), half[1]]) == [Commit("v1"), Abandon(0)]
    assert rollout.advance(half) == [Open(1)]


def test_the_same_version_in_another_folder_is_not_the_same() -> None:
    """The old folder may be removed after a reload."""
    rollout = reload("new")
    rollout.advance(places(1))
    assert rollout.advance(places(1, beside=RUNNING, beside_version="v1")) == [Commit("v1"), Promote(0)]


def test_what_could_not_load_beside_an_older_one_is_tried_alone_once_and_so_are_all_after_it() -> None:
    rollout = reload()
    rollout.advance(places())
    assert rollout.failed(0, "it does not fit", hopeless=True, crowded=True) == [Open(0, in_place=True)]
    assert rollout.told == "slot 0 is tried again in place of the old one: it does not fit"
    assert rollout.advance(places()) == [], "it drains"
    assert rollout.advance([new(0), replace(OLD, number=1)]) == [Commit("v2")]
    assert rollout.advance([new(0), replace(OLD, number=1)]) == [Open(1, in_place=True)]
    hopeless = reload()
    hopeless.advance(places())
    hopeless.failed(0, "it does not fit", hopeless=True, crowded=True)
    assert hopeless.failed(0, "it does not fit", hopeless=True) == [Abandon(0)]
    assert hopeless.told == "it does not fit; version v1 serves on"


def test_a_version_that_is_gone_before_all_have_it_gives_way_to_the_one_that_was_found() -> None:
    rollout = reload()
    rollout.advance(places())
    rollout.advance(places(beside=RUNNING, beside_version="v2"))
    assert rollout.advance([new(0), replace(OLD, number=1)]) == [Open(1)]
    later = replace(OLD, number=1, beside=RUNNING, beside_version="v3")
    assert rollout.advance([new(0), later]) == [Commit("v3"), Promote(1)]
    assert rollout.advance([new(0), new(1, version="v3")]) == [Open(0)]
    rollout.advance([new(0, beside=RUNNING, beside_version="v3"), new(1, version="v3")])
    assert rollout.advance([new(0, version="v3", incarnation="next"), new(1, version="v3")]) == []
    assert (rollout.state, rollout.version) == (DONE, "v3")


def test_a_process_of_ours_that_is_drained_first_is_not_taken_for_the_one_that_follows_it() -> None:
    """A respawn of slot 1 found another version than the wanted one, which is gone."""
    rollout = reload()
    rollout.advance(places())
    rollout.advance(places(beside=RUNNING, beside_version="v2"))
    odd = new(1, version="v3", incarnation="first")
    assert rollout.advance([new(0), odd]) == [Open(1)]
    assert rollout.advance([new(0), odd]) == [], "it drains"
    assert rollout.advance([new(0), replace(odd, incarnation="next")]) == [Commit("v3")]
    assert rollout.advance([new(0), replace(odd, incarnation="next")]) == [Open(0)]


def test_a_restart_replaces_also_what_stays_the_same() -> None:
    rollout = Rollout(RESTART, 1, "old", ("old", "v1"))
    rollout.advance(places(1))
    assert rollout.advance(places(1, beside=RUNNING, beside_version="v1")) == [Commit("v1"), Promote(0)]
    rollout.advance([new(0, version="v1")])
    assert rollout.told == "1 worker replaced, version v1"


@pytest.mark.parametrize("gone", [places(dismissed=True, state=STOPPED, serves=None, beside=STARTING), places()[1:]])
def test_a_slot_that_an_operator_takes_away_is_passed_over(gone: list[Place]) -> None:
    rollout = reload()
    rollout.advance(places())
    rollout.advance(places(beside=STARTING))
    assert rollout.advance(gone) == [Abandon(0)]
    assert rollout.advance([place for place in gone if not place.dismissed]) == [Open(1)]


def test_an_old_process_that_ends_comes_back_as_it_was_until_the_new_version_is_known() -> None:
    rollout = reload()
    rollout.advance(places())
    crashed = places(state=BACKOFF, serves=None, version="", beside=STARTING)
    assert rollout.advance(crashed) == []
    rollout = reload()
    rollout.advance(places())
    rollout.advance(places(beside=RUNNING, beside_version="v2"))
    rollout.advance([new(0), replace(OLD, number=1)])
    orphaned = replace(OLD, number=1, state=BACKOFF, serves=None, version="", beside=STARTING)
    assert rollout.advance([new(0), orphaned]) == [Promote(1)], "there is nobody to stand beside"
    assert rollout.advance([new(0), new(1, state=STARTING, version="")]) == []
    assert rollout.advance([new(0), new(1)]) == []
    assert rollout.state == DONE


def test_those_that_respawn_with_the_new_version_need_nothing_more() -> None:
    rollout = reload()
    rollout.advance(places(3))
    rollout.advance(places(3, beside=RUNNING, beside_version="v2"))
    after = [new(0), new(1, state=STARTING, version=""), replace(OLD, number=2)]
    assert rollout.advance(after) == [Open(2)]


def test_running_slots_are_tried_first_and_broken_ones_if_there_are_no_others() -> None:
    broken = places(state=QUARANTINED, serves=None, version="")
    assert reload().advance(broken) == [Open(1)]
    assert reload().advance(broken[:1]) == [Open(0)]
    nobody = reload()
    assert nobody.advance([]) == []
    assert nobody.state == FAILED
    assert "there is no worker that could try it" in nobody.told


def test_the_end_of_the_pool_is_its_end_too() -> None:
    rollout = reload()
    rollout.advance(places())
    assert rollout.cancel("the pool goes down") == [Abandon(0)]
    assert rollout.cancel("the pool goes down") == []
    assert rollout.told == "the pool goes down; version v1 serves on"


def test_a_slot_whose_process_still_leaves_for_an_operator_is_not_tried() -> None:
    leaving = places(state=STOPPED, dismissed=True)
    rollout = reload()
    assert rollout.advance(leaving) == [Open(1)]
    rollout.advance([leaving[0], replace(OLD, number=1, beside=RUNNING, beside_version="v2")])
    assert rollout.advance([leaving[0], new(1)]) == []
    assert rollout.state == DONE
