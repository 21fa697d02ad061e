"""What the machine was doing while something was measured: who had the cores, how fast they ran and how hot they were.

On Linux the kernel tells all of it; elsewhere what is not known is None.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

PROC: Final = Path("/proc")
CPUS: Final = Path("/sys/devices/system/cpu")
THERMAL: Final = Path("/sys/class/thermal")
KIBIBYTE: Final = 1024

# A quiet machine keeps 0.02 cores busy with itself and lets threads wait for 1 % of the time (two virtual cores of an AMD EPYC). One other
# process on one of two cores makes it 0.5 to 1.0 cores and 20 to 40 %.
MOST_WAITED: Final = 0.05
MOST_OTHERS: Final = 0.10
SOME_OTHERS: Final = 0.05
# The kernel counts busy cores in ticks of 10 ms; fewer than these say nothing.
LEAST_TICKS_S: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Who had the cores for a while.

    Attributes:
        wall_s: How long that was.
        cores_used: CPU time of this process over ``wall_s``.
        waited: Share of the time in which its threads could run that they waited for a core, 0 to 1.
        others: Cores that other processes kept busy, of those that this process may use.
        stolen: Cores that the machine's host took away.
    """

    wall_s: float
    cores_used: float
    waited: float | None
    others: float | None
    stolen: float | None

    @property
    def doubt(self) -> str | None:
        """Why what was measured meanwhile should not be believed; None where nothing speaks against it."""
        if self.others is not None and self.others > MOST_OTHERS and self.others * self.wall_s > LEAST_TICKS_S:
            return f"other processes kept {self.others:.1f} cores busy"
        if self.stolen is not None and self.stolen > MOST_OTHERS and self.stolen * self.wall_s > LEAST_TICKS_S:
            return f"the machine's host took {self.stolen:.1f} cores away"
        # Without others at work its own threads wait for each other, as parallel streams do: that is how it runs, and no disturbance.
        if self.waited is not None and self.waited > MOST_WAITED and (self.others is None or self.others > SOME_OTHERS):
            return f"its threads waited for a core for {self.waited:.0%} of their time"
        return None


@dataclass(frozen=True)
class Moment:
    """Counters at one moment; two of them tell what was between."""

    wall_s: float
    own_s: float
    waited_s: float | None
    busy_s: float | None
    stolen_s: float | None

    @classmethod
    def now(cls) -> Self:
        """Read the counters of this process and of the cores that it may use."""
        busy, stolen = _read_cores()
        own = os.times()
        return cls(time.perf_counter(), own.user + own.system, _read_waited(), busy, stolen)

    def until(self, later: "Moment") -> Usage:
        """What happened from this moment to a later one."""
        wall, own = later.wall_s - self.wall_s, later.own_s - self.own_s
        waited = _difference(self.waited_s, later.waited_s)
        busy, stolen = _difference(self.busy_s, later.busy_s), _difference(self.stolen_s, later.stolen_s)
        return Usage(
            wall_s=wall,
            cores_used=own / wall,
            waited=waited / (waited + own) if waited is not None and waited + own > 0 else None,
            others=max(0.0, busy - own) / wall if busy is not None else None,
            stolen=stolen / wall if stolen is not None else None,
        )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """State of the machine at one moment.

    Attributes:
        load_average: Processes that ran or waited, on average over 1, 5 and 15 minutes.
        frequency_mhz: Mean of the cores' clocks.
        governor: What sets them, such as ``performance`` or ``powersave``.
        temperature_c: Of the hottest sensor.
        throttled: How often cores were slowed down for their temperature, since the machine was started.
        others: Cores that other processes kept busy in the quarter of a second before.
        cpu_quota: Cores that the container may use; None where there is no such limit.
    """

    load_average: tuple[float, ...] | None
    frequency_mhz: float | None
    governor: str | None
    temperature_c: float | None
    throttled: int | None
    others: float | None
    cpu_quota: float | None

    @classmethod
    def now(cls) -> Self:
        """Look at the machine for a quarter of a second."""
        from edgeresnet.machine import cpu_quota

        before = Moment.now()
        time.sleep(0.25)
        return cls(
            load_average=tuple(round(load, 2) for load in os.getloadavg()) if hasattr(os, "getloadavg") else None,
            frequency_mhz=read_frequency(),
            governor=next(iter(_texts(CPUS, "cpu*/cpufreq/scaling_governor")), None),
            temperature_c=read_temperature(),
            throttled=sum(counts) if (counts := _numbers(CPUS, "cpu*/thermal_throttle/core_throttle_count")) else None,
            others=before.until(Moment.now()).others,
            cpu_quota=cpu_quota(),
        )


def read_frequency() -> float | None:
    """Mean clock of the cores in MHz, None where the system does not tell."""
    clocks = [value / 1000 for value in _numbers(CPUS, "cpu*/cpufreq/scaling_cur_freq")]
    return sum(clocks) / len(clocks) if clocks else None


def read_temperature() -> float | None:
    """Temperature of the hottest sensor in degrees Celsius, None where there is none."""
    return max((value / 1000 for value in _numbers(THERMAL, "thermal_zone*/temp")), default=None)


def read_peak_memory() -> int | None:
    """Most bytes of memory that this process ever had at a time; None where the system does not tell.

    Of this program alone: what ``getrusage`` tells includes the process that started it.
    """
    for line in _lines(PROC / "self" / "status"):
        if line.startswith("VmHWM:"):
            return KIBIBYTE * int(line.split()[1])
    return None


def _read_cores() -> tuple[float | None, float | None]:
    """Seconds that the cores which this process may use were busy, and that the host took from them (man 5 proc_stat)."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in _lines(PROC / "stat")]
    ticks = [[int(value) for value in row[1:]] for row in rows if row and row[0] in allowed]
    if not ticks:
        return None, None
    per_second = os.sysconf("SC_CLK_TCK")
    busy = sum(sum(row[:3]) + sum(row[5:7]) for row in ticks)  # user, nice, system; interrupts, soft interrupts
    return busy / per_second, sum(row[7] for row in ticks) / per_second


def _read_waited() -> float | None:
    """Seconds that the threads of this process could have run and had no core (the kernel's schedstats)."""
    waited = [int(line.split()[1]) for path in (PROC / "self" / "task").glob("*/schedstat") for line in _lines(path)]
    return sum(waited) / 1e9 if waited else None


def _difference(before: float | None, after: float | None) -> float | None:
    return max(0.0, after - before) if before is not None and after is not None else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []  # another operating system, or a thread that has ended


def _texts(folder: Path, pattern: str) -> list[str]:
    return [lines[0] for path in sorted(folder.glob(pattern)) if (lines := _lines(path))]


def _numbers(folder: Path, pattern: str) -> list[int]:
    return [int(text) for text in _texts(folder, pattern) if text.lstrip("-").isdigit()]
