"""Writes a model's description into the model."""

from importlib.metadata import version

import onnx

from edgeresnet.spec import ModelSpec


def stamp(model: onnx.ModelProto, spec: ModelSpec) -> bytes:
    """Return the model as bytes, with ``spec`` as its only metadata.

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
    onnx.helper.set_model_props(stamped, spec.to_metadata())
    content: bytes = stamped.SerializeToString(deterministic=True)
    return content


def tool_versions() -> dict[str, str]:
    """Versions of the packages that decide what an export looks like."""
    return {name: version(name) for name in ("edgeresnet", "torch", "onnx", "onnxruntime")}
