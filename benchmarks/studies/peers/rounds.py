"""Times all peers in turns, each in a process of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.intervals import LEAST_ROUNDS
from benchmarks.studies.peers.processes import PeerError, Worker
from edgeresnet.progress import Track

# Clocks, caches and a runtime's threads have settled after this.
WARMUP_S: Final = 0.2
TIMEOUT_S: Final = 120.0
# A visit that somebody disturbed is made once more.
TRIES: Final = 2


@dataclass
class Visits:
    """What was measured of a peer so far.

    Attributes:
        rounds: Milliseconds of the calls of each round.
        doubts: Why a round is not believed, of those that are not.
    """

    rounds: dict[int, list[float]] = field(default_factory=dict)
    doubts: dict[int, str] = field(default_factory=dict)

    @property
    def doubt(self) -> str | None:
        """Why none of it is believed: too few rounds were undisturbed."""
        if len(self.rounds) - len(self.doubts) >= min(LEAST_ROUNDS, len(self.rounds)):
            return None
        return f"disturbed in {len(self.doubts)} of {len(self.rounds)} rounds, such as: {next(iter(self.doubts.values()))}"

    @property
    def believed(self) -> dict[int, list[float]]:
        """The rounds that figures are of: the undisturbed ones, or all if they are too few."""
        return {number: calls for number, calls in self.rounds.items() if self.doubt is not None or number not in self.doubts}


def time_in_turns(workers: Mapping[str, Worker], rounds: int, seconds: float, failures: dict[str, str], track: Track) -> dict[str, Visits]:
    """Time the peers round after round, each time in another order, so that a drift of the machine meets all alike.

    Args:
        workers: Their processes, with the form loaded, by the peer's name.
        rounds: Number of rounds.
        seconds: Time to spend on a peer in a round.
        failures: Takes the reason for each that fails; it leaves the race.
        track: Progress reporter.

    Returns:
        Calls with one image, of each that has not failed.
    """
    visits = {name: Visits() for name in workers}
    for number in track(range(rounds), "timing in turns"):
        names = list(visits)
        first = number * len(names) // rounds
        for name in names[first:] + names[:first]:
            try:
                visit = _visit(workers[name], seconds)
            except PeerError as error:
                failures[name] = str(error)
                del visits[name]
                continue
            visits[name].rounds[number] = visit["calls_ms"]
            if visit["doubt"] is not None:
                visits[name].doubts[number] = visit["doubt"]
    return visits


def _visit(worker: Worker, seconds: float) -> Any:
    for _ in range(TRIES):
        visit = worker.ask("time", timeout_s=TIMEOUT_S, warmup_s=WARMUP_S, seconds=seconds)
        if visit["doubt"] is None:
            break
    return visit
