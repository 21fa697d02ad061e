"""Who has the cores is noticed, on this very machine."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks import conditions
from benchmarks.conditions import Conditions, Moment, Usage, read_peak_memory

SPIN = "import time\nuntil = time.time() + {seconds}\nwhile time.time() < until: pass"


def spin(seconds):
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_own_work_is_told_from_that_of_others():
    before = Moment.now()
    spin(0.5)
    usage = before.until(Moment.now())
    assert usage.wall_s == pytest.approx(0.5, abs=0.3)
    assert usage.cores_used * usage.wall_s + usage.waited * 0.5 == pytest.approx(0.5, abs=0.25)
    # Whatever others do here meanwhile, one more process that spins is seen.
    hogs = [subprocess.Popen([sys.executable, "-c", SPIN.format(seconds=30)]) for _ in os.sched_getaffinity(0)]
    try:
        time.sleep(0.5)
        before = Moment.now()
        spin(1.0)
        usage = before.until(Moment.now())
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    # Half of the only core, or more; and no core stands idle.
    assert usage.others > 0.4
    assert usage.others + usage.cores_used + usage.stolen > 0.85 * len(hogs)
    assert usage.doubt is not None


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, None),
        ({"others": 0.09}, None),
        ({"others": 0.6}, "other processes kept 0.6 cores busy"),
        ({"others": 0.6, "wall_s": 0.05}, None),  # three ticks of the kernel's clock
        ({"stolen": 0.4}, "the machine's host took 0.4 cores away"),
        ({"waited": 0.25}, None),  # for each other: nobody else is at work
        ({"waited": 0.04, "others": 0.08}, None),
        ({"waited": 0.25, "others": 0.08}, "its threads waited for a core for 25% of their time"),
        ({"waited": 0.25, "others": None}, "its threads waited for a core for 25% of their time"),
        ({"others": None, "stolen": None, "waited": None}, None),
    ],
)
def test_what_is_not_believed(changes, doubt):
    quiet = {"wall_s": 1.0, "cores_used": 2.0, "waited": 0.0, "others": 0.0, "stolen": 0.0}
    assert Usage(**(quiet | changes)).doubt == doubt


def test_sensors_are_read_where_they_are(tmp_path, monkeypatch):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")

    for core, (clock, throttled) in enumerate(((1_800_000, 3), (2_400_000, 4))):
        write(f"cpu/cpu{core}/cpufreq/scaling_cur_freq", clock)
        write(f"cpu/cpu{core}/cpufreq/scaling_governor", "schedutil")
        write(f"cpu/cpu{core}/thermal_throttle/core_throttle_count", throttled)
    for zone, temperature in enumerate((41_500, 68_250)):
        write(f"thermal/thermal_zone{zone}/temp", temperature)
    monkeypatch.setattr(conditions, "CPUS", tmp_path / "cpu")
    monkeypatch.setattr(conditions, "THERMAL", tmp_path / "thermal")
    found = Conditions.now()
    assert (found.frequency_mhz, found.governor, found.temperature_c, found.throttled) == (2100.0, "schedutil", 68.25, 7)
    assert len(found.load_average) == 3


def test_a_system_that_tells_nothing_is_measured_all_the_same(tmp_path, monkeypatch):
    for place in ("PROC", "CPUS", "THERMAL"):
        monkeypatch.setattr(conditions, place, tmp_path)
    found = Conditions.now()
    assert (found.frequency_mhz, found.governor, found.temperature_c, found.throttled, found.others) == (None,) * 5
    usage = Moment.now().until(Moment.now())
    assert (usage.waited, usage.others, usage.stolen, usage.doubt) == (None, None, None, None)
    assert read_peak_memory() is None


def test_peak_memory_is_of_the_program_that_runs():
    """Not of the one that started it: what ``getrusage`` tells includes that."""
    ballast = bytearray(300_000_000)
    code = "from benchmarks.conditions import read_peak_memory; x = bytearray(50_000_000); print(read_peak_memory())"
    peak = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert 50e6 < peak < 150e6 < len(ballast)
