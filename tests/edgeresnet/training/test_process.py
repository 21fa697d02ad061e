import os
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import sys

import torch

from edgeresnet.training.process import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.ones(2**24 + 2**14)  # 64 MiB, and some to spare for the alignment of the next
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif("linux" not in sys.platform, reason="a setting of the GNU C library")
def test_memory_that_was_freed_is_not_mapped_again():
    def count_faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True).stdout)

    # 64 MiB in pages of 4 KiB, or of 2 MiB where the system gives large ones.
    assert count_faults("handed back") >= 32
    assert count_faults("kept") < 16


SPEND_TIME_IDLE = """
import os
import statistics
import sys
import time

from edgeresnet.training.process import let_idle_threads_sleep

os.sched_setaffinity(0, range(os.cpu_count()))
if sys.argv[1] == "asleep":
    let_idle_threads_sleep()

import torch

torch.set_num_threads(2)
spent = []
for _ in range(5):
    torch.ones(2**22).exp_()
    before = time.process_time()
    time.sleep(0.1)
    spent.append(time.process_time() - before)
print(statistics.median(spent))
"""


@pytest.mark.skipif("linux" not in sys.platform, reason="a setting of GNU's OpenMP")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="OpenMP's threads do not spin where they outnumber the cores")
def test_idle_threads_take_no_time_from_others(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    def measure(how: str) -> float:
        return float(subprocess.run([sys.executable, "-c", SPEND_TIME_IDLE, how], capture_output=True, text=True, check=True).stdout)

    # Seconds of the processor while the program slept for a tenth of a second. They spin for 4 to 11 ms, asleep it is 0.1 ms.
    assert measure("asleep") < 0.001
    assert measure("spinning") > 0.001
