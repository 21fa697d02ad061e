"""What this process may use of the machine, what the machine is, and what is installed on it."""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Final

CONTROL_GROUPS: Final = Path("/sys/fs/cgroup")
OWN_CONTROL_GROUPS: Final = Path("/proc/self/cgroup")
CPUINFO: Final = Path("/proc/cpuinfo")
MEMINFO: Final = Path("/proc/meminfo")
NVIDIA_GPUS: Final = Path("/proc/driver/nvidia/gpus")
CGROUP_V2_MEMORY: Final = Path("/sys/fs/cgroup")

# Those that decide how fast 8-bit and 32-bit products run (names as Linux gives them on x86 and ARM).
RELEVANT_INSTRUCTION_SETS: Final = (
    *("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


def available_cores() -> int:
    """Number of cores that this process can keep busy: its affinity mask, capped by the container's CPU quota."""
    quota = cpu_quota()
    return affinity_cores() if quota is None else max(1, min(affinity_cores(), int(quota)))


def affinity_cores() -> int:
    """Number of cores that the scheduler may put this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """CPU quota of this process in cores, the least of its control group's and of those around it, or None where there is none."""
    return min((quota for folder in _control_groups() if (quota := _quota_of(folder)) is not None), default=None)


def _control_groups() -> Iterator[Path]:
    """Folders of the control groups that limit this process's CPU time, the innermost first (man 7 cgroups)."""
    try:
        lines = OWN_CONTROL_GROUPS.read_text().splitlines()
    except OSError:
        lines = []  # another operating system
    for line in (*lines, "0::/"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CONTROL_GROUPS / ("cpu" if controllers else "")
        # Above what a container may see there are ".."; within it only the outermost folder is the container's own.
        inner = PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents) if ".." not in inner.parts else (PurePosixPath(),):
            yield root / group


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (group / "cpu.cfs_quota_us").read_text(), (group / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None  # no such control group, or cgroup v2's "max"


def available_memory() -> int | None:
    """Bytes that this process can still fill without swapping, as the system and its container say; None where neither does."""
    rooms = [room for room in (_system_memory(), _container_memory()) if room is not None]
    return min(rooms) if rooms else None


def cpu_model() -> str:
    """Name of the processor."""
    for key in ("model name", "Model", "Hardware"):
        if value := _cpuinfo(key):
            return value
    return platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Which of ``RELEVANT_INSTRUCTION_SETS`` the processor has; empty where the system does not tell."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(name for name in RELEVANT_INSTRUCTION_SETS if name in flags)


def nvidia_gpus() -> tuple[str, ...]:
    """Names of the NVIDIA cards whose driver runs, one for each card."""
    files = sorted(NVIDIA_GPUS.glob("*/information"))
    return tuple(name for file in files if (name := _field(file, "Model")))


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _system_memory() -> int | None:
    try:
        line = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration, ValueError, IndexError):
        return None  # another operating system


def _container_memory() -> int | None:
    try:
        limit, used = ((CGROUP_V2_MEMORY / f"memory.{name}").read_text() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):
        return None  # no such control group, or its "max"


def _cpuinfo(key: str) -> str:
    return _field(CPUINFO, key)


def _field(file: Path, key: str) -> str:
    """First value of a field of a file of Linux's /proc, or nothing."""
    try:
        for line in file.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        pass  # another operating system
    return ""
