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
