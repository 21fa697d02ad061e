"""Times calls."""

import time
from collections.abc import Callable


def time_calls(call: Callable[[], object], *, seconds: float, least: int = 1) -> list[float]:
    """Call again and again.

    Args:
        call: What to time; nothing warms it up.
        seconds: No call begins later than this, once there are enough.
        least: Number of calls, at least.

    Returns:
        Milliseconds of each call.
    """
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return times
