"""Examines what this machine can run, and why not."""

import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution, packages_distributions, version
from pathlib import Path
from typing import Final

from edgeresnet.errors import EdgeResNetError
from edgeresnet.extras import OUR_PACKAGES, folder_of
from edgeresnet.machine import affinity_cores, available_cores, cpu_model, cpu_quota, installed_version, instruction_sets
from edgeresnet.providers import ALL, load_onnxruntime

OK: Final = "ok"
ABSENT: Final = "absent"
BROKEN: Final = "broken"

# What the optional parts need, by extra.
EXTRAS: Final = {"train": ("torch", "torchvision", "safetensors"), "export": ("onnx", "onnx-ir", "onnxscript")}
NVIDIA_DRIVER: Final = Path("/proc/driver/nvidia/version")
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
        asked: Providers that have to work: names of ``providers.ALL``. Whatever of them is not installed is merely absent otherwise.
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
        *(_examine_provider(provider, provider in asked) for provider in ALL),
        *_examine_gpu("cuda" in asked),
        *_examine_libraries(),
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
    folders = [Path(str(distribution(wheel).locate_file(""))).resolve() for wheel in wheels]
    is_overwritten = len(set(folders)) < len(wheels)
    if is_overwritten:
        fix = f"pip uninstall {' '.join(wheels)}, then pip install 'edgeresnet[cpu]' or 'edgeresnet[gpu]'"
        yield Finding("ONNX Runtime", BROKEN, f"{versions}: they share a folder, one has overwritten the other", fix)
    try:
        module = load_onnxruntime()
    except EdgeResNetError as error:
        if wheels:
            fix = f"pip install --force-reinstall {' '.join(wheels)}"
            yield Finding("ONNX Runtime", BROKEN, f"{versions} does not load: {error.__cause__ or error}", fix)
        else:
            yield Finding("ONNX Runtime", BROKEN, "not installed", "pip install 'edgeresnet[cpu]' or 'edgeresnet[gpu]'")
    else:
        if not is_overwritten:
            where = f" (of these the one in {folder_of('onnxruntime')})" if len(wheels) > 1 else ""
            listed = ", ".join(module.get_available_providers())
            yield Finding("ONNX Runtime", OK, f"{versions or module.__version__}{where}, lists {listed}")


def _examine_provider(provider: str, asked: bool) -> Finding:
    subject = f"provider {provider}"
    try:
        ALL[provider].start({})
    except EdgeResNetError as error:
        found, _, fix = _INSTALLATION.sub("", str(error)).partition("; fix: ")
        missing = not asked and provider != "cpu" and not ALL[provider].is_installed()
        return Finding(subject, ABSENT if missing else BROKEN, found.partition(", but ")[2] or found, fix or None)
    return Finding(subject, OK, "starts")


def _examine_gpu(asked: bool) -> Iterator[Finding]:
    """The driver, where something here is made for it."""
    if NVIDIA_DRIVER.exists():
        yield Finding("NVIDIA driver", OK, NVIDIA_DRIVER.read_text().splitlines()[0].removeprefix("NVRM version: "))
    elif asked or ALL["cuda"].is_installed():
        yield Finding(
            "NVIDIA driver", BROKEN, "not loaded: this system shows no NVIDIA GPU", "install the GPU's driver, or use --provider cpu"
        )


def _examine_libraries() -> Iterator[Finding]:
    for provider in ALL.values():
        if missing := provider.missing():
            fix = f"pip install 'edgeresnet[{provider.extra}]'"
            yield Finding(f"{provider.name.upper()} libraries", BROKEN, f"missing: {', '.join(missing)}", fix)


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
