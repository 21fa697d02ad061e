import struct
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from edgeresnet.doctor import ABSENT, BROKEN, OK, examine
from edgeresnet.machine import available_cores
from edgeresnet.providers import ALL
from edgeresnet.providers.libraries import linked_libraries


def finding(findings, subject):
    (found,) = [found for found in findings if found.subject == subject]
    return found


def test_what_works_here_is_ok_and_what_is_not_installed_is_absent():
    findings = examine()
    assert not [found for found in findings if found.status == BROKEN]
    assert finding(findings, "provider cpu").found == "starts"
    assert f"onnxruntime {version('onnxruntime')}" in finding(findings, "ONNX Runtime").found
    cuda, openvino = finding(findings, "provider cuda"), finding(findings, "provider openvino")
    assert (cuda.status, openvino.status) == (ABSENT, ABSENT)
    assert cuda.found == "the ONNX Runtime installed here is built without CUDA"
    assert "edgeresnet[gpu]" in cuda.fix
    assert openvino.fix == "pip install 'edgeresnet[openvino]'"
    assert finding(findings, "cores").found.startswith(f"{available_cores()} used by default")
    assert finding(findings, "edgeresnet export").status == OK


def test_what_was_asked_for_and_is_not_there_is_broken():
    findings = examine(["cuda"])
    assert finding(findings, "provider cuda").status == BROKEN
    assert finding(findings, "NVIDIA driver").status == BROKEN
    assert finding(findings, "provider openvino").status == ABSENT


def install(folder, name, package):
    """A distribution that owns an import package, as pip would leave it."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "top_level.txt").write_text(package)


def test_two_wheels_of_onnx_runtime_in_one_folder_are_a_fault(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime-gpu"):
        install(tmp_path, name, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding(examine(), "ONNX Runtime")
    assert found.status == BROKEN
    assert "onnxruntime-gpu 1.0: they share a folder" in found.found
    assert found.fix.startswith("pip uninstall onnxruntime onnxruntime-gpu,")


def test_another_distribution_with_a_package_of_ours_is_a_fault(tmp_path, monkeypatch):
    install(tmp_path, "speedometer", "benchmarks")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding(examine(), "package benchmarks")
    assert found.status == BROKEN
    assert "speedometer" in found.found
    assert found.fix.startswith("pip uninstall speedometer")


def test_a_folder_that_hides_a_package_of_ours_is_a_fault(tmp_path, monkeypatch):
    (tmp_path / "exporters").mkdir()
    (tmp_path / "exporters" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "exporters"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    assert str(tmp_path) in finding(examine(), "package exporters").found


def test_an_installation_that_does_not_load_says_why(tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libgone.so: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    found = finding(examine(), "ONNX Runtime")
    assert found.status == BROKEN
    assert "does not load: libgone.so: cannot open shared object file" in found.found


def test_linked_libraries_are_those_of_the_dynamic_section():
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    assert {"libstdc++.so.6", "libc.so.6", "libm.so.6"} <= set(linked_libraries(library))
    assert linked_libraries(Path(sysconfig.get_path("stdlib")) / "os.py") == []


def test_missing_cuda_libraries_are_named_with_their_origin(tmp_path, monkeypatch):
    """A provider library that is linked to what this machine lacks."""
    assert ALL["cuda"].missing() == []
    strings = b"\0libcublasLt.so.99\0libcuda.so.1\0libc.so.6\0"
    dynamic = b"".join(struct.pack("<qQ", 1, strings.index(name)) for name in (b"libcublasLt", b"libcuda", b"libc.so.6"))
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 40, 64)
    struct.pack_into("<HH", header, 58, 64, 2)
    section = "<4xI16xQQI20x"
    table = struct.pack(section, 6, 192, len(dynamic), 1) + struct.pack(section, 3, 192 + len(dynamic), len(strings), 0)
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    (tmp_path / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(header + table + dynamic + strings)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    assert ALL["cuda"].missing() == ["libcublasLt.so.99 (comes with nvidia-cublas)"]


def test_a_container_quota_limits_the_cores(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("150000 100000")
    monkeypatch.setattr("edgeresnet.machine.CONTROL_GROUPS", tmp_path)
    found = finding(examine(), "cores")
    assert found.found.startswith("1 used by default")
    assert "container quota 1.5" in found.found
