"""`record`: the frozen dataclass of everything that is made once a query or more often, with a quick `__init__`.

A frozen dataclass sets each field through `object.__setattr__`, which looks the name up anew. Here each is set through the
descriptor of its slot, in less than half the time, as frozen as before: a query makes some twenty records on its way.
"""

from __future__ import annotations

import sys
from dataclasses import MISSING, dataclass, field, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

if sys.version_info >= (3, 11):
    from typing import dataclass_transform
elif TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda decorator: decorator


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """`@dataclass(frozen=True, slots=True)`, with a quicker `__init__`. No keyword-only fields, no `__post_init__`."""
    made: Any = dataclass(frozen=True, slots=True)(cls)
    made.__init__ = wraps(made.__init__)(_init_of(made))
    finished: type[T] = made
    return finished


def _init_of(cls: type[Any]) -> Any:
    """`__init__` with the parameters and defaults that dataclass would give it, written as source, as dataclass does."""
    names: dict[str, Any] = {"MISSING": MISSING}
    parameters, steps = ["self"], []
    for each in fields(cls):
        names[f"set_{each.name}"] = cls.__dict__[each.name].__set__
        default, value = "", each.name
        if each.default_factory is not MISSING:
            names[f"make_{each.name}"] = each.default_factory
            default, value = "=MISSING", f"make_{each.name}() if {each.name} is MISSING else {each.name}"
        elif each.default is not MISSING:
            names[f"default_{each.name}"] = each.default
            default = f"=default_{each.name}"
        parameters.append(each.name + default)
        steps.append(f"set_{each.name}(self, {value})")
    exec(f"def __init__({', '.join(parameters)}): {'; '.join(steps) or 'pass'}", names)
    return names["__init__"]
