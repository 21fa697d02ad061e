"""How long-running library code tells its caller how far it is, without printing anything itself."""

from collections.abc import Iterable, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Track(Protocol):
    """Wraps an iterable and reports each step; the command line supplies one that draws a bar."""

    def __call__(self, steps: Iterable[T], description: str, total: int | None = None) -> Iterable[T]: ...


def silent(steps: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The default: report nothing."""
    return steps


def length(steps: Iterable[T], total: int | None) -> int | None:
    """``total`` where it is given, else the iterable's own length where it has one."""
    return total if total is not None else len(steps) if isinstance(steps, Sized) else None
