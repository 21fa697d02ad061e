"""Examines what this machine can run, and why not."""

import ctypes
import mmap
import os
import platform
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edgeresnet.errors import EdgeResNetError
from edgeresnet.extras import OUR_PACKAGES, folder_of
from edgeresnet.machine import affinity_cores, available_cores, cpu_model, cpu_quota, installed_version, instruction_sets
from edgeresnet.providers import (
    library_origin,
    load_onnxruntime,
    preload_cuda_libraries,
    start_provider,
)
from edgeresnet.target import PROVIDERS

OK: Final = "ok"
ABSENT: Final = "absent"
BROKEN: Final = "broken"

# What the optional parts need, by extra.
EXTRAS: Final = {"train": ("torch", "torchvision", "safetensors"), "export": ("onnx", "onnx-ir", "onnxscript")}
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
_SHT_DYNAMIC, _DT_NEEDED = 6, 1
# What errors of providers add for readers who do not have the doctor's other lines before them.
_INSTALLATION: Final = re.compile(r" \(onnxruntime [^)]*\)")

# What an instruction set does for INT8: multiply-accumulate of 8-bit numbers in one instruction, or not.
_INT8_SUPPORT: Final = (
    ({"amx_int8"}, "tiles of 8-bit products (AMX): INT8 at its fastest"),
    ({"avx512_vnni", "avx_vnni"}, "8-bit dot products (VNNI): INT8 is fast"),
    ({"i8mm"}, "8-bit matrix products (i8mm): INT8 is fast"),
    ({"asimddp"}, "8-bit dot products: INT8 is fast"),
    ({"avx2"}, "8-bit products by way of 16 bits (AVX2 without VNNI): INT8 is faster than FP32, by less than on newer processors"),
    ({"asimd"}, "8-bit products by way of 16 bits: INT8 gains little but size"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        subject: What was looked at.
        status: ``ok``; ``absent``: not there and not asked for; ``broken``: asked for or installed, and does not work.
        found: What was seen.
        fix: What to do about it; None if nothing needs doing.
    """

    subject: str
    status: str
    found: str
    fix: str | None = None


def examine(asked: Sequence[str] = ()) -> list[Finding]:
    """Examine the machine and the installation.

    Args:
        asked: Providers that have to work: names of ``PROVIDERS``. Whatever of them is not installed is merely absent otherwise.
    """
    owners = packages_distributions()
    return [
        Finding(
            "edgeresnet",
            OK,
            f"{installed_version('edgeresnet') or 'a checkout'} on Python {platform.python_version()}, {platform.platform()}",
        ),
        *_examine_packages(owners),
        *_examine_wheels(owners),
        *(_examine_provider(provider, provider in asked) for provider in PROVIDERS),
        *_examine_gpu("cuda" in asked),
        _examine_processor(),
        _examine_cores(),
        *_examine_extras(),
    ]


def _examine_packages(owners: Mapping[str, list[str]]) -> Iterator[Finding]:
    """Two of our import packages have names that other distributions might use as well."""
    home = folder_of("edgeresnet")
    for package in OUR_PACKAGES:
        others = sorted(set(owners.get(package, [])) - {"edgeresnet"})
        if others:
            fix = f"pip uninstall {' '.join(others)}, then pip install --force-reinstall --no-deps edgeresnet"
            yield Finding(f"package {package}", BROKEN, f"also belongs to {', '.join(others)}: one overwrites the other", fix)
        elif folder_of(package) != home:
            found = f"is imported from {folder_of(package)}, not from {home} beside edgeresnet"
            yield Finding(f"package {package}", BROKEN, found, f"run from another folder, or rename that {package}")


def _examine_wheels(owners: Mapping[str, list[str]]) -> Iterator[Finding]:
    wheels = sorted(set(owners.get("onnxruntime", [])))
    versions = ", ".join(f"{wheel} {version(wheel)}" for wheel in wheels)
    if len(wheels) > 1:
        fix = f"pip uninstall {' '.join(wheels)}, then pip install 'edgeresnet[cpu]' or 'edgeresnet[gpu]'"
        yield Finding("ONNX Runtime", BROKEN, f"{versions}: they share a folder, one has overwritten the other", fix)
    try:
        module = load_onnxruntime()
    except EdgeResNetError as error:
        if wheels:
            fix = f"pip install --force-reinstall {' '.join(wheels)}"
            yield Finding("ONNX Runtime", BROKEN, f"{versions} does not load: {error.__cause__}", fix)
        else:
            yield Finding("ONNX Runtime", BROKEN, "not installed", "pip install 'edgeresnet[cpu]' or 'edgeresnet[gpu]'")
    else:
        if len(wheels) <= 1:
            yield Finding("ONNX Runtime", OK, f"{versions or module.__version__}, lists {', '.join(module.get_available_providers())}")


def _examine_provider(provider: str, asked: bool) -> Finding:
    subject = f"provider {provider}"
    try:
        start_provider(provider)
    except EdgeResNetError as error:
        found, _, fix = _INSTALLATION.sub("", str(error)).partition("; fix: ")
        missing = not asked and provider != "cpu" and not _is_installed(provider)
        return Finding(subject, ABSENT if missing else BROKEN, found.partition(", but ")[2] or found, fix or None)
    return Finding(subject, OK, "starts")


def _is_installed(provider: str) -> bool:
    """Whether the wheel that brings a provider is there, working or not."""
    if provider == "openvino":
        return find_spec("onnxruntime_ep_openvino") is not None
    try:
        return PROVIDERS[provider] in load_onnxruntime().get_available_providers()
    except EdgeResNetError:
        return False


def _examine_gpu(asked: bool) -> Iterator[Finding]:
    """Driver and libraries, where something here is made for CUDA."""
    if NVIDIA_DRIVER.exists():
        yield Finding("NVIDIA driver", OK, NVIDIA_DRIVER.read_text().splitlines()[0].removeprefix("NVRM version: "))
    elif asked or _is_installed("cuda"):
        yield Finding(
            "NVIDIA driver", BROKEN, "not loaded: this system shows no NVIDIA GPU", "install the GPU's driver, or use --provider cpu"
        )
    missing = _missing_cuda_libraries()
    if missing:
        yield Finding("CUDA libraries", BROKEN, f"missing: {', '.join(missing)}", "pip install 'edgeresnet[gpu]'")


def _missing_cuda_libraries() -> list[str]:
    """Libraries of CUDA's that ONNX Runtime is linked to and that the system does not find, but for the driver's."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        return []
    provider = Path(found.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not provider.exists():
        return []
    preload_cuda_libraries(load_onnxruntime())
    missing = [library for library in linked_libraries(provider) if not library.startswith("libcuda.so") and not _loads(library)]
    return [f"{library} (comes with {library_origin(library)})" for library in missing if library_origin(library)]


def linked_libraries(path: Path) -> list[str]:
    """Names of the shared libraries that a library is linked to: DT_NEEDED of a 64-bit little-endian ELF file (System V ABI)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:6] != b"\x7fELF\x02\x01":
            return []
        (table,) = struct.unpack_from("<Q", content, 40)
        size, count = struct.unpack_from("<HH", content, 58)
        # Of each section: type, offset, length, and the section that holds its strings.
        sections = [struct.unpack_from("<4xI16xQQI", content, table + i * size) for i in range(count)]
        for kind, offset, length, strings in sections:
            if kind == _SHT_DYNAMIC:
                entries = struct.iter_unpack("<qQ", content[offset : offset + length])
                starts = [sections[strings][1] + value for tag, value in entries if tag == _DT_NEEDED]
                return [content[start : content.find(b"\0", start)].decode() for start in starts]
    return []


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _examine_processor() -> Finding:
    sets = instruction_sets()
    support = next((text for names, text in _INT8_SUPPORT if names & set(sets)), "instruction sets unknown")
    return Finding("processor", OK, f"{cpu_model()} ({', '.join(sets) or 'unknown instruction sets'}): {support}")


def _examine_cores() -> Finding:
    quota = cpu_quota()
    limits = f"affinity {affinity_cores()}, container quota {f'{quota:g}' if quota is not None else 'none'}"
    return Finding("cores", OK, f"{available_cores()} used by default, of {os.cpu_count()} online ({limits})")


def _examine_extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        missing = [package for package in packages if installed_version(package) is None]
        if missing:
            yield Finding(f"edgeresnet {extra}", ABSENT, f"needs {', '.join(missing)}", f"pip install 'edgeresnet[{extra}]'")
        else:
            yield Finding(f"edgeresnet {extra}", OK, ", ".join(f"{package} {installed_version(package)}" for package in packages))
