import json
from dataclasses import replace

import pytest

from edgeresnet.errors import ModelFormatError
from edgeresnet.spec import Accuracy, ImageInput, ModelSpec

SPEC = ModelSpec(
    labels=("a", "b"),
    input=ImageInput(height=24, width=40, fit="crop", frame=(30, 50), filter="lanczos", fill=(1, 2, 3)),
    mean=(0.1, 0.2, 0.3),
    std=(0.4, 0.5, 0.6),
    architecture="resnet18-cifar",
    precision="int8",
    checkpoint_sha256="00ff",
    accuracy=Accuracy(top1=0.75, count=40, data="toys"),
    versions={"onnx": "1.0"},
)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, accuracy=None)])
def test_metadata_carries_the_whole_description(spec):
    metadata = spec.to_metadata()
    assert all(key.startswith("edgeresnet.") for key in metadata)
    assert ModelSpec.from_metadata(metadata) == spec


def test_metadata_is_readable_without_this_package():
    metadata = SPEC.to_metadata()
    assert json.loads(metadata["edgeresnet.labels"]) == ["a", "b"]
    assert json.loads(metadata["edgeresnet.accuracy"]) == {"top1": 0.75, "count": 40, "data": "toys"}
    assert metadata["edgeresnet.precision"] == "int8"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("edgeresnet.format_version", None, "no edgeresnet metadata"),
        ("edgeresnet.format_version", "99", "upgrade"),
        ("edgeresnet.format_version", "x", "broken"),
        ("edgeresnet.labels", None, "broken"),
        ("edgeresnet.labels", "[", "broken"),
        ("edgeresnet.labels", "[" * 100_000, "broken"),
        ("edgeresnet.mean", "[1, 2]", "broken"),
        ("edgeresnet.image_size", "[24]", "broken"),
        ("edgeresnet.image_size", "[24, 0]", "at least 1 pixel"),
        ("edgeresnet.image_size", "[24.5, 24]", "not whole numbers"),
        ("edgeresnet.layout", "float32 NCHW RGB", "unknown layout"),
        ("edgeresnet.fit", "squeeze", "fit must be one of"),
        ("edgeresnet.filter", "cubic", "filter must be one of"),
        ("edgeresnet.fill", "[0, 0, 256]", "fill must be"),
        ("edgeresnet.frame", "[30]", "frame must be"),
        ("edgeresnet.output", "scores", "output must be one of"),
        ("edgeresnet.accuracy", '{"top": 1}', "broken"),
    ],
)
def test_broken_metadata_is_refused(key, value, message):
    metadata = SPEC.to_metadata()
    if value is None:
        del metadata[key]
    else:
        metadata[key] = value
    with pytest.raises(ModelFormatError, match=message):
        ModelSpec.from_metadata(metadata)


FORMAT_1 = {
    "edgeresnet.format_version": "1",
    "edgeresnet.labels": '["a", "b"]',
    "edgeresnet.image_size": "[24, 24]",
    "edgeresnet.layout": "uint8 NHWC RGB",
    "edgeresnet.mean": "[0.1, 0.2, 0.3]",
    "edgeresnet.std": "[0.4, 0.5, 0.6]",
    "edgeresnet.architecture": "resnet18-cifar",
    "edgeresnet.precision": "int8",
    "edgeresnet.checkpoint_sha256": "00ff",
    "edgeresnet.accuracy": '{"top1": 0.75, "count": 40, "data": "toys"}',
    "edgeresnet.versions": '{"onnx": "1.0"}',
}


def test_files_of_format_1_are_read_as_what_they_were():
    read = ModelSpec.from_metadata(FORMAT_1)
    assert read == replace(SPEC, input=ImageInput(height=24, width=24, channels=3, fit="stretch", frame=None, filter="bilinear"))
    assert (read.output, read.image_size, read.accuracy.top5) == ("logits", 24, None)


def test_a_grey_input_and_probabilities_are_described():
    grey = replace(SPEC, input=ImageInput(height=8, width=8, channels=1), mean=(0.5,), std=(0.25,), output="probabilities")
    metadata = grey.to_metadata()
    assert metadata["edgeresnet.layout"] == "uint8 NHWC grey"
    assert ModelSpec.from_metadata(metadata) == grey


def test_mean_and_deviation_are_one_for_each_channel():
    with pytest.raises(ValueError, match=r"std must have a value for each of the 3 channel\(s\)"):
        replace(SPEC, std=(0.5,))


def test_a_square_input_has_one_size():
    assert replace(SPEC, input=ImageInput.of(24)).image_size == 24
    with pytest.raises(ValueError, match="24 x 40, not a square"):
        _ = SPEC.image_size
