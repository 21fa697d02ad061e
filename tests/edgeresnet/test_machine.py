from pathlib import Path

import pytest

from edgeresnet.machine import cpu_quota


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
def test_the_quota_is_the_least_of_the_groups_that_this_process_is_in(tmp_path: Path, monkeypatch, own, files, cores):
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr("edgeresnet.machine.CONTROL_GROUPS", tmp_path / "groups")
    monkeypatch.setattr("edgeresnet.machine.OWN_CONTROL_GROUPS", tmp_path / "own")
    assert cpu_quota() == cores
