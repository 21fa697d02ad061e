import json
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from benchmarks.studies import packages
from benchmarks.studies.packagedfiles import PackagedFile, extract
from benchmarks.studies.packages import compare


def save_network(path, height):
    """Convolutions of 64 channels, of which INT8 pays on any processor; the height is open where it is None."""
    generator = np.random.default_rng(0)
    shapes = [(64, 3, 3, 3), *[(64, 64, 3, 3)] * 3]
    tensors = [
        numpy_helper.from_array((generator.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32), f"w{i}")
        for i, shape in enumerate(shapes)
    ]
    nodes = []
    for i in range(4):
        nodes += [helper.make_node("Conv", [f"v{i}", f"w{i}"], [f"c{i}"], pads=[1] * 4), helper.make_node("Relu", [f"c{i}"], [f"v{i + 1}"])]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("v0", [1, 3, height, 32]), ("v4", [1, 64, height, 32]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]), path)


def test_a_packaged_file_is_quantized_and_compared(monkeypatch, tmp_path):
    """From the cache: nothing is downloaded here."""
    folder = tmp_path / "cache" / "somebodys==1.0"
    folder.mkdir(parents=True)
    save_network(tmp_path / "network.onnx", None)
    with zipfile.ZipFile(folder / "somebodys-1.0-py3-none-any.whl", "w") as wheel:
        wheel.write(tmp_path / "network.onnx", "somebodys/models/network.onnx")
    file = PackagedFile("somebodys==1.0", "models/network.onnx", "normalized", (32, 32))
    unsized = PackagedFile("somebodys==1.0", "somebodys/models/network.onnx", "normalized")
    monkeypatch.setattr(packages, "FILES", (file, unsized))
    record = tmp_path / "record.json"
    command = ["--cache", str(tmp_path / "cache"), "--record", str(record)]
    done = CliRunner().invoke(packages.command, ["--rounds", "1", *command])
    assert done.exit_code == 0, done.output
    (written, refused) = json.loads(record.read_text())["results"]
    (repeat,) = written["repeats"]
    assert (repeat["layers"], written["package"]) == (4, "somebodys==1.0")
    assert repeat["int8_mb"] < written["original_mb"]
    assert repeat["output_db"]["v4"] > 30
    assert repeat["proof_db"] >= 20
    least, most = repeat["checked_bounds"]
    assert 0 < least <= repeat["checked_speedup"] <= most
    assert repeat["fp32_ms"] > 0 < repeat["int8_ms"]
    assert written["stock"]["output_db"]["v4"] > 20
    assert "--size HxW" in refused["repeats"][0]["refusal"]
    assert "stock" in refused
    assert str(tmp_path) not in record.read_text()

    # An interrupted record is gone on with: only what is missing is done.
    calls = []
    monkeypatch.setattr(packages, "run_command", lambda file, *_: calls.append(file) or packages.Repeat(refusal="no"))
    kept = json.loads(record.read_text())
    kept["results"][0]["repeats"] = []
    record.write_text(json.dumps(kept))
    assert CliRunner().invoke(packages.command, ["--rounds", "1", *command]).exit_code == 0
    assert calls == [file]
    assert [len(entry["repeats"]) for entry in json.loads(record.read_text())["results"]] == [1, 1]


def test_files_are_found_in_source_archives_too(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"model")
    with tarfile.open(tmp_path / "p-1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.onnx", "p-1/p/a.onnx")
    assert extract(tmp_path / "p-1.tar.gz", "p/a.onnx") == b"model"


def test_every_output_is_compared():
    expected = {"a": [np.array([1.0, 2.0])], "b": [np.array([1.0])], "c": [np.array([1, 2])]}
    found = {"a": [np.array([1.0, 2.2])], "b": [np.array([1.0, 1.0])], "c": [np.array([1, 2])]}
    assert compare(expected, found) == {"a": pytest.approx(10 * np.log10(5 / 0.04)), "b": -999.0, "c": None}
