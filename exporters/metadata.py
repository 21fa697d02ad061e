"""Writes into a model what it is, what it answered here, and what its bytes are."""

from collections.abc import Mapping
from importlib.metadata import version

import onnx

from edgeresnet.modelfile import FINGERPRINT_KEY, parse_model
from edgeresnet.spec import ModelSpec
from exporters.golden import take_answers


def seal(model: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """Return the model as the bytes of a finished file.

    Beside ``spec`` its metadata hold a few images with what the model answers to them here, for ``edgeresnet verify`` on other machines,
    and a fingerprint of all the rest.
    """
    answers = take_answers(stamp(model, spec), spec).to_metadata()
    unsigned = stamp(model, spec, answers)
    return stamp(model, spec, answers | {FINGERPRINT_KEY: parse_model(unsigned).fingerprint})


def stamp(model: onnx.ModelProto, spec: ModelSpec, more: Mapping[str, str] | None = None) -> bytes:
    """Return the model as bytes that a session opens, with ``spec``, and what else is given, as its only metadata.

    What exporters leave on graph and nodes (source lines and paths of the exporting machine) is removed.
    """
    stamped = onnx.ModelProto()
    stamped.CopyFrom(model)
    del stamped.metadata_props[:]
    stamped.doc_string = ""
    graph = stamped.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(stamped, spec.to_metadata() | dict(more or {}))
    content: bytes = stamped.SerializeToString(deterministic=True)
    return content


def tool_versions() -> dict[str, str]:
    """Versions of the packages that decide what an export looks like."""
    return {name: version(name) for name in ("edgeresnet", "torch", "onnx", "onnxruntime")}
