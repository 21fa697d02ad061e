import os
import platform

import pytest

from edgeresnet import machine
from edgeresnet.machine import affinity_cores, available_cores, cpu_model, cpu_quota, installed_version, instruction_sets, nvidia_gpus

CPUINFO = """processor\t: 0
model name\t: Abacus 3000 (R) @ 1: fast
flags\t\t: fpu sse avx512_vnni avx2 amx_int8 fma avx512f

processor\t: 1
model name\t: Abacus 4000
flags\t\t: fpu
"""


@pytest.fixture
def control_groups(tmp_path, monkeypatch):
    """Writes the quota of a container, as version 2 or 1 of Linux's control groups has it."""
    monkeypatch.setattr(machine, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CONTROL_GROUPS", tmp_path / "own")

    def write(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})


@pytest.mark.parametrize(
    ("text", "quota", "cores"),
    [
        ("150000 100000\n", 1.5, 1),
        ("300000 100000\n", 3, 3),
        ("50000 100000\n", 0.5, 1),
        ("900000 100000\n", 9, 4),
        ("max 100000\n", None, 4),
    ],
)
def test_a_quota_of_version_2_caps_the_cores(control_groups, four_cores, text, quota, cores):
    control_groups("0::/\n", {"cpu.max": text})
    assert (cpu_quota(), available_cores()) == (quota, cores)


@pytest.mark.parametrize(
    ("quota_us", "period_us", "quota", "cores"),
    [("250000\n", "100000\n", 2.5, 2), ("20000\n", "80000\n", 0.25, 1), ("-1\n", "100000\n", None, 4), ("1\n", "0\n", None, 4)],
)
def test_a_quota_of_version_1_caps_the_cores(control_groups, four_cores, quota_us, period_us, quota, cores):
    control_groups("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": quota_us, "cpu/cpu.cfs_period_us": period_us})
    assert (cpu_quota(), available_cores()) == (quota, cores)


def v1(folder: str, quota: str) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_period_us": "100000", f"{folder}/cpu.cfs_quota_us": quota}


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/user/job\n", {"user/job/cpu.max": "50000 100000"}, 0.5),
        ("0::/user/job\n", {"user/job/cpu.max": "max 100000", "user/cpu.max": "200000 100000"}, 2),
        ("0::/user/job\n", {"user/job/cpu.max": "300000 100000", "user/cpu.max": "max 100000", "cpu.max": "250000 100000"}, 2.5),
        ("0::/user/job\n", {"other/cpu.max": "50000 100000"}, None),
        ("0::/../../neighbour\n", {"cpu.max": "400000 100000", "neighbour/cpu.max": "1 100000"}, 4),
        (
            "5:memory:/a\n4:cpu,cpuacct:/a/b\n0::/\n",
            v1("cpu/a/b", "50000"),
            0.5,
        ),
        ("4:cpu,cpuacct:/a/b\n", v1("cpu/a/b", "-1"), None),
        ("4:cpuset:/a\n3:cpu:/docker/1\n", v1("cpu", "700000"), 7),
        (None, {}, None),
    ],
)
def test_the_quota_is_the_least_of_the_groups_that_this_process_is_in(control_groups, own, files, cores):
    if own is not None:
        control_groups(own, files)
    assert cpu_quota() == cores


def test_without_control_groups_the_affinity_mask_decides(control_groups, four_cores):
    assert cpu_quota() is None
    assert (affinity_cores(), available_cores()) == (4, 4)


@pytest.fixture
def cpuinfo(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_the_processor_is_named_by_its_first_core(cpuinfo):
    cpuinfo.write_text(CPUINFO)
    assert cpu_model() == "Abacus 3000 (R) @ 1: fast"
    assert instruction_sets() == ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")


def test_a_processor_of_arm_has_other_names_for_them(cpuinfo):
    cpuinfo.write_text("Features\t: fp asimd evtstrm asimddp i8mm sve2\nModel\t\t: Raspberry\nHardware\t: BCM\n")
    assert cpu_model() == "Raspberry"
    assert instruction_sets() == ("asimd", "asimddp", "i8mm", "sve2")


def test_an_old_processor_of_arm_is_named_by_its_board(cpuinfo):
    cpuinfo.write_text("Features\t: half thumb\nHardware\t: BCM2835\n")
    assert (cpu_model(), instruction_sets()) == ("BCM2835", ())


def test_another_system_tells_less(cpuinfo, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert (cpu_model(), instruction_sets()) == ("riscv64", ())


def test_versions_are_those_of_installed_distributions():
    assert installed_version("no-such-distribution") is None
    assert installed_version("pytest") == pytest.__version__


def test_cards_are_named_by_their_driver(tmp_path, monkeypatch):
    monkeypatch.setattr("edgeresnet.machine.NVIDIA_GPUS", tmp_path)
    assert nvidia_gpus() == ()
    for address, name in (("0000:02:00.0", "NVIDIA H200"), ("0000:01:00.0", "NVIDIA T4")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "information").write_text(f"Model: \t\t {name}\nIRQ: 60\n")
    assert nvidia_gpus() == ("NVIDIA T4", "NVIDIA H200")
