"""Reads an ONNX file whole, with the tensors that lie in files beside it."""

from collections.abc import Iterator
from pathlib import Path

import onnx

from edgeresnet.checkpoints import explain
from edgeresnet.errors import ModelFormatError, ModelNotFoundError

# Protobuf's own limit, of a file and of a message.
MAX_BYTES = 2**31 - 1


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model; the result refers to no other file.

    Tensors in side files are read if they lie in the model's folder or below it: a file that somebody sent may not read others.

    Raises:
        ModelNotFoundError: If there is no such file, or a side file is missing.
        ModelFormatError: If it is not an ONNX model, or a side file is not as the model says or lies elsewhere.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path}: no such model file")
    try:
        model = onnx.load(path, load_external_data=False)
    # Protobuf's DecodeError, whose class depends on the implementation.
    except Exception as error:
        raise ModelFormatError(f"{path}: not a valid ONNX model ({explain(path, _first_line(error))})") from error
    if not model.graph.node:
        raise ModelFormatError(f"{path}: not a valid ONNX model (its graph has no nodes)")
    _read_side_files(model, path)
    return model


def _read_side_files(model: onnx.ModelProto, path: Path) -> None:
    external = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if not external:
        return
    folder = path.parent.resolve()
    for tensor in external:
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            raise ModelFormatError(f"{path}: keeps the tensor {tensor.name} in {location!r}, which is not in the model's folder")
        if not file.is_file():
            raise ModelNotFoundError(
                f"{path}: keeps the tensor {tensor.name} in {location}, which is not there; fix: put it beside the model"
            )
    if sum((folder / file).stat().st_size for file in {_location(tensor) for tensor in external}) > MAX_BYTES:
        raise ModelFormatError(f"{path}: its tensors are more than the 2 GB that one ONNX file can hold")
    try:
        for tensor in external:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    # onnx raises ValueError, its checker's ValidationError and OSError here, by release.
    except Exception as error:
        raise ModelFormatError(f"{path}: a side file does not hold what the model says ({_first_line(error)})") from error
    for tensor in external:
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    # A location that the model names but whose file ends too early gives fewer bytes without an error.
    for tensor in external:
        try:
            onnx.numpy_helper.to_array(tensor)
        except ValueError as error:
            raise ModelFormatError(f"{path}: the side file of the tensor {tensor.name} ends too early ({_first_line(error)})") from error


def _location(tensor: onnx.TensorProto) -> str:
    return str(next(entry.value for entry in tensor.external_data if entry.key == "location"))


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers, and attributes of nodes, in branches and in functions too."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _attribute_tensors(node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _attribute_tensors(node)


def _attribute_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _tensors_of(graph)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
