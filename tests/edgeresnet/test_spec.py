import json
from dataclasses import replace

import pytest

from edgeresnet.errors import ModelFormatError
from edgeresnet.spec import Accuracy, ModelSpec

SPEC = ModelSpec(
    labels=("a", "b"),
    image_size=24,
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
        ("edgeresnet.mean", "[1, 2]", "broken"),
        ("edgeresnet.image_size", "[24, 32]", "not a square"),
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
