"""Times all peers in turns, each in a process of its own."""

from collections.abc import Mapping
from typing import Final

from benchmarks.studies.peers.processes import PeerError, Worker
from edgeresnet.progress import Track

# Clocks, caches and a runtime's threads have settled after this.
WARMUP_S: Final = 0.2
TIMEOUT_S: Final = 120.0


def time_in_turns(
    workers: Mapping[str, Worker], rounds: int, seconds: float, failures: dict[str, str], track: Track
) -> dict[str, dict[int, list[float]]]:
    """Time the peers round after round, each time in another order, so that a drift of the machine meets all alike.

    Args:
        workers: Their processes, with the form loaded, by the peer's name.
        rounds: Number of rounds.
        seconds: Time to spend on a peer in a round.
        failures: Takes the reason for each that fails; it leaves the race.
        track: Progress reporter.

    Returns:
        Milliseconds of calls with one image, by round, of each that has not failed.
    """
    times: dict[str, dict[int, list[float]]] = {name: {} for name in workers}
    for number in track(range(rounds), "timing in turns"):
        names = list(times)
        first = number * len(names) // rounds
        for name in names[first:] + names[:first]:
            try:
                times[name][number] = workers[name].ask("time", timeout_s=TIMEOUT_S, warmup_s=WARMUP_S, seconds=seconds)
            except PeerError as error:
                failures[name] = str(error)
                del times[name]
    return times
