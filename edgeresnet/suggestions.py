"""What somebody may have meant by a name that is not known."""

from collections.abc import Sequence
from difflib import get_close_matches


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The names closest to one that is not known, for a complaint."""
    close = get_close_matches(name, known, n=4, cutoff=0.5)
    return f" (close: {', '.join(close)})" if close else ""
