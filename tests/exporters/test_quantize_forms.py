"""Which form of INT8 `quantize` writes where none is asked for."""

import onnx
import pytest

from edgeresnet.errors import ExportError
from edgeresnet.race import RaceResult
from exporters import attempt, quantize
from exporters.budget import Search
from exporters.quantize import quantize_file


class Races:
    """What decides instead of the clock: the user's file is always slower, and one form beats the other as told."""

    def __init__(self, monkeypatch, lower, upper):
        self.between_forms = 0
        won = RaceResult(first_ms=2, second_ms=1, speedup=2, lower=2, upper=2)
        monkeypatch.setattr(attempt, "race", lambda *calls, **_: won)
        monkeypatch.setattr(attempt, "PAYING_SHARES", ())
        monkeypatch.setattr(quantize, "race", self._race)
        self._result = RaceResult(first_ms=1, second_ms=1, speedup=(lower + upper) / 2, lower=lower, upper=upper)

    def _race(self, *_):
        self.between_forms += 1
        return self._result


@pytest.fixture
def source(tmp_path, graphs):
    network = graphs.model([*graphs.trunk(), *graphs.pool("features", "y")], graphs.TRUNK)
    onnx.save(network, tmp_path / "net-fp32.onnx")
    return tmp_path / "net-fp32.onnx"


@pytest.mark.parametrize(
    ("lower", "upper", "written", "reason"),
    [
        (1.2, 1.4, "int8-static", "slower: 1.30 times the time"),
        (0.5, 0.75, "int8", "slower: 1.60 times the time"),
        (0.9, 1.1, "", "not certainly faster, and not as close"),
    ],
)
def test_of_both_forms_the_faster_is_written_and_the_other_is_told(source, image_folder, monkeypatch, lower, upper, written, reason):
    races = Races(monkeypatch, lower, upper)
    given = {"images": image_folder / "train", "pixel_range": "1"}
    result = quantize_file(source, **given)
    (other,) = result.others
    assert written or result.proof.sqnr_db > other.sqnr_db
    written = written or result.precision
    assert (result.precision, result.path) == (written, source.with_name(f"net-{written}.onnx"))
    assert (other.reason, other.speedup, races.between_forms) == (reason, 2, 1)
    operators = {node.op_type for node in onnx.load(result.path).graph.node}
    assert ("DequantizeLinear" in operators, bool(result.calibrated_on)) == (written == "int8-static", written == "int8-static")
    asked = "static" if written == "int8" else "dynamic"
    alone = quantize_file(source, form=asked, **given)
    assert alone.precision == other.precision != written
    assert alone.others == ()
    # The dynamic form alone is proven on more images: those that ranges would be taken from are among them.
    assert other.sqnr_db == pytest.approx(alone.proof.sqnr_db, abs=1e-9 if asked == "static" else 3)


def test_a_form_that_cannot_be_had_leaves_the_other(source, image_folder, monkeypatch):
    Races(monkeypatch, 0.9, 1.1)
    for given, wanted in (
        ({}, "--images and --pixel-range"),
        ({"images": image_folder / "train"}, "--pixel-range"),
        ({"pixel_range": "1"}, "--images"),
    ):
        result = quantize_file(source, **given)
        assert result.precision == "int8"
        assert [(other.precision, other.reason) for other in result.others] == [("int8-static", f"not tried: it needs {wanted}")]
    budget = Search.complaint
    monkeypatch.setattr(
        Search, "complaint", lambda search, candidate: "too far" if search.form.precision == "int8" else budget(search, candidate)
    )
    result = quantize_file(source, images=image_folder / "train", pixel_range="1")
    assert result.precision == "int8-static"
    assert [(other.precision, other.reason.split(",")[0], other.speedup) for other in result.others] == [("int8", "too far", None)]
    monkeypatch.setattr(Search, "complaint", lambda search, candidate: f"{search.form.precision} is too far")
    with pytest.raises(
        ExportError, match=r"net-fp32.onnx: in the dynamic form, int8 is too far, .*; in the static form, int8-static is too far"
    ):
        quantize_file(source, images=image_folder / "train", pixel_range="1")


def test_who_is_refused_the_dynamic_form_learns_of_the_other(source, monkeypatch):
    Races(monkeypatch, 0.9, 1.1)
    monkeypatch.setattr(attempt, "LEAST_SPEEDUP", 1000)
    with pytest.raises(
        ExportError, match=r"INT8 is hardly faster here .*; nothing was written; int8-static was not tried: it needs --images"
    ):
        quantize_file(source, pixel_range="1")
    with pytest.raises(ExportError, match=r"nothing was written$"):
        quantize_file(source, pixel_range="1", form="dynamic")
    assert [path.name for path in source.parent.iterdir()] == [source.name]


@pytest.mark.parametrize("form", ["dynamic", "static"])
def test_layers_that_the_user_wants_in_fp32_stay_there(source, monkeypatch, form):
    Races(monkeypatch, 0.9, 1.1)
    labels = [layer.label for layer in quantize_file(source, form=form, pixel_range="1").layers]
    result = quantize_file(source, form=form, pixel_range="1", excluded=labels[1:2])
    assert {layer.label: layer.reason for layer in result.layers}[labels[1]] == "asked for"
    assert sum(layer.quantized for layer in result.layers) >= 1
    with pytest.raises(ExportError, match=rf"net-fp32.onnx: no layer with weights is called '{labels[1]}x' \(close: .*{labels[1]}"):
        quantize_file(source, form=form, pixel_range="1", excluded=[f"{labels[1]}x"])
    with pytest.raises(ExportError, match=r"nothing to quantize: .*asked for"):
        quantize_file(source, form=form, pixel_range="1", excluded=labels)
