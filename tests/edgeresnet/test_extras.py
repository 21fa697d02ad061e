"""A missing package is an extra that is not installed, unless something else stands in its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeresnet.errors import EdgeResNetError, MissingExtraError
from edgeresnet.extras import claim_own_names, folder_of, needing


def test_a_package_that_is_nowhere_is_a_missing_extra():
    with (
        pytest.raises(MissingExtraError, match=r"^nowhere_at_all is not installed; fix: pip install 'edgeresnet\[train\]'"),
        needing("train"),
    ):
        import nowhere_at_all.inside
    with (
        pytest.raises(MissingExtraError, match=r"^the original needs nowhere_at_all, which is not installed"),
        needing("train", "the original"),
    ):
        import nowhere_at_all  # noqa: F401


@pytest.mark.parametrize("form", ["package", "folder", "module"])
def test_something_else_of_that_name_is_named_with_its_place(tmp_path, monkeypatch, form):
    if form == "module":
        (tmp_path / "sketches.py").touch()
    else:
        (tmp_path / "sketches").mkdir()
    if form == "package":
        (tmp_path / "sketches" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with (
        pytest.raises(EdgeResNetError, match=r"sketches\.deep is not in .*another than the one") as failed,
        needing("train"),
    ):
        import sketches.deep  # noqa: F401
    sys.modules.pop("sketches")
    assert not isinstance(failed.value, MissingExtraError)
    assert str(tmp_path) in str(failed.value)
    assert folder_of("sketches") == tmp_path


def test_our_packages_of_common_names_are_found_beside_us(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    claim_own_names()
    import benchmarks

    assert Path(benchmarks.__file__).parent.parent == Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("benchmarks", ("report", str(Path(__file__).parents[2] / "benchmarks" / "records" / "cpu.json"), "--html", "x.html")),
        ("exporters", ("quantize", "{model}", "--output", "x.onnx")),
    ],
)
def test_a_folder_of_the_users_own_does_no_harm_to_a_command(tmp_path, exports, name, arguments):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('this is not yours')")
    command = [sys.executable, "-m", "edgeresnet", *(argument.format(model=exports["int8"].path) for argument in arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(Path(__file__).parents[2])))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    if name == "exporters":
        assert "quantized already" in done.stderr  # which only the exporter knows
    else:
        assert "resnet18-int8.onnx" in (tmp_path / "x.html").read_text()
