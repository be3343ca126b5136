"""`record` is a frozen dataclass in every way but the time that making one takes."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ragpool.client import hit
from ragpool.wire import bodies, messages
from ragpool.wire.record import record


@record
class Point:
    """A point, and what is known of it."""

    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list, hash=False)

    @property
    def norm(self) -> int:
        return abs(self.x) + abs(self.y)


@dataclasses.dataclass(frozen=True, slots=True)
class Plain:
    x: int
    y: int = 2
    tags: list[str] = dataclasses.field(default_factory=list, hash=False)


@record
class Nothing:
    """No field at all."""


@given(st.integers(), st.integers(), st.lists(st.text()))
def test_it_is_made_compared_shown_and_hashed_as_a_dataclass(x: int, y: int, tags: list[str]) -> None:
    for made, plain in (
        (Point(x), Plain(x)),
        (Point(x, y), Plain(x, y)),
        (Point(x, tags=tags), Plain(x, tags=tags)),
        (Point(tags=tags, y=y, x=x), Plain(tags=tags, y=y, x=x)),
    ):
        assert dataclasses.asdict(made) == dataclasses.asdict(plain)
        assert repr(made) == repr(plain).replace("Plain", "Point")
        assert hash(made) == hash(plain)
        assert made == Point(**dataclasses.asdict(made))
        assert made != Point(made.x + 1)


def test_it_cannot_be_changed() -> None:
    point = Point(1)
    for change in (lambda: setattr(point, "x", 3), lambda: delattr(point, "x"), lambda: setattr(point, "z", 3)):
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
            change()
    assert point == Point(1)
    assert not hasattr(point, "__dict__")


def test_each_has_its_own_default_list() -> None:
    assert Point(1).tags is not Point(1).tags


def test_it_is_copied_replaced_and_pickled() -> None:
    point = Point(1, tags=["a"])
    for again in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point)), dataclasses.replace(point, x=1)):
        assert again == point
        assert again is not point
    assert dataclasses.replace(point, y=5) == Point(1, 5, ["a"])
    assert point.norm == 3
    assert Nothing() == Nothing()


@pytest.mark.parametrize("call", [lambda: Point(), lambda: Point(1, 2, [], 4), lambda: Point(1, z=2), lambda: Nothing(1)])
def test_wrong_arguments_are_a_type_error(call: object) -> None:
    with pytest.raises(TypeError, match=r"(Point|Nothing).__init__\(\)"):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("cls", [hit.Hit, hit.Passage, bodies.Work, *messages.KINDS.values()])
def test_parameters_and_defaults_of_real_records_are_those_of_their_fields(cls: type) -> None:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    assert [each.name for each in parameters] == [each.name for each in dataclasses.fields(cls)]
    for parameter, each in zip(parameters, dataclasses.fields(cls)):
        if each.default_factory is not dataclasses.MISSING:
            assert repr(parameter.default) == "<factory>"
        elif each.default is not dataclasses.MISSING:
            assert parameter.default is each.default
        else:
            assert parameter.default is inspect.Parameter.empty
