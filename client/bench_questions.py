"""Questions for a load generator that was given none: distinct, of mixed lengths, about what the demo index holds. Pure.

The demo index is the reference text inside Python. Most questions are short, as people ask; some carry the situation they come
from, as agents ask.
"""

from __future__ import annotations

_SUBJECTS = (
    "a generator", "a coroutine", "the with statement", "an operator", "a class", "a metaclass", "a descriptor",
    "a slice", "the import system", "a module", "a package", "an exception", "a try statement",
    "a lambda expression", "a decorator", "a context manager", "an iterator", "a list comprehension",
    "a dictionary", "a set", "a tuple", "a string literal", "a bytes literal", "a formatted string",
    "an integer literal", "a floating point number", "a complex number", "a boolean value", "a comparison",
    "an assignment", "an augmented assignment", "an annotation", "a type alias", "a global statement",
    "a nonlocal statement", "a return statement", "a yield expression", "an await expression",
    "an assert statement", "the del statement", "a for loop", "a while loop", "the match statement", "a pattern",
    "a guard", "a function definition", "a keyword argument", "a default parameter value", "a namespace",
    "a scope", "a code object", "a frame", "a traceback", "garbage collection", "object identity", "hashing",
    "attribute lookup", "the debugger", "a breakpoint", "unpacking", "truth value testing", "operator precedence",
    "string formatting", "an ellipsis", "a private name", "inheritance",
)  # fmt: skip

_SHORT = (
    "what is {}",
    "how does {} work",
    "when should I use {}",
    "what does {} evaluate to",
    "which special methods belong to {}",
    "what errors can {} raise and why",
)

_PAIRED = (
    "what is the difference between {} and {}",
    "how do {} and {} work together inside one function",
    "can {} be used within {}, and in which order is everything evaluated",
)

_LONG = (
    "I am reading a program that uses {0} next to {1}, and it behaves differently on its second run; "
    "what are the exact rules for {0}, and does {1} change any of them",
    "explain step by step, with the names of the special methods that are called, what the interpreter does "
    "when it meets {0} while {1} is still being evaluated, and which exceptions may leave it",
)


def questions() -> list[str]:
    """All of them, always the same and in the same order, none twice."""
    pairs = [(a, b) for a in _SUBJECTS for b in _SUBJECTS if a != b]
    short = [template.format(subject) for template in _SHORT for subject in _SUBJECTS]
    paired = [template.format(*pair) for template in _PAIRED for pair in pairs]
    long = [_LONG[n % len(_LONG)].format(*pair) for n, pair in enumerate(pairs)]
    return short + paired + long
