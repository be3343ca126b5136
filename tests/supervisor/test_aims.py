"""Which version is wanted, by what the processes serve that run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ragpool.supervisor.aims import Aim, pinned

OURS = Aim("wiki", "", 3, "/data/wiki")
OTHERS = Aim("old", "o", 2, "/data/old")


@pytest.mark.parametrize(
    ("wanted", "running", "version"),
    [
        ("", [], ""),
        ("", [(OURS, "")], ""),
        ("", [(OTHERS, "o"), (OURS, ""), (OURS, "v1")], "v1"),
        ("v1", [], "v1"),
        ("v1", [(OURS, "v1")], "v1"),
        ("v1", [(OURS, ""), (OTHERS, "o")], "v1"),
        ("v1", [(OURS, "v2"), (OURS, "v2")], "v2"),
        ("v1", [(OURS, "v2"), (OURS, "v1")], "v1"),
    ],
    ids=["nobody", "loads", "first", "none left", "found", "another aim", "gone", "found by one"],
)
def test_the_wanted_version_is_one_that_is_served(wanted: str, running: list[tuple[Aim, str]], version: str) -> None:
    aim = replace(OURS, version=wanted)
    assert pinned(aim, running) == replace(OURS, version=version)
    assert pinned(pinned(aim, running), running) == pinned(aim, running)
