"""Reads what an ONNX file says of itself, without onnx and without ONNX Runtime.

An ONNX file is one protocol-buffer message. The handful of fields that matter here are few enough to be read from the wire
format directly (protobuf.dev/programming-guides/encoding, field numbers from onnx.proto3), which keeps the 60 MB onnx package
out of a device's environment.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeresnet.checkpoints import explain
from edgeresnet.errors import ModelFormatError, ModelNotFoundError

# ModelProto
_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET, _METADATA, _FUNCTION = 1, 2, 3, 7, 8, 14, 25
# GraphProto, NodeProto, TensorProto, OperatorSetIdProto, StringStringEntryProto
_NODE, _OP_TYPE, _DATA_LOCATION = 1, 4, 14
# The messages within each kind of message that can hold a tensor, by field number; a sparse tensor holds two.
_HOLDERS: Final[Mapping[str, Mapping[int, str]]] = {
    "graph": {_NODE: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST: Final = 64
_OPSET_DOMAIN, _OPSET_VERSION, _KEY, _VALUE = 1, 2, 1, 2
_EXTERNAL: Final = 1
# No message of protocol buffers is larger. What is no file, such as /dev/zero, may have no end.
MAX_BYTES: Final = 2**31

# Metadata entry with the file's own fingerprint.
FINGERPRINT_KEY: Final = "edgeresnet.fingerprint"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The outside of an ONNX model.

    Attributes:
        content: The file itself.
        ir_version: Version of the ONNX format.
        opset: Version of the standard operators.
        producer: Name and version of the tool that wrote it.
        metadata: Free-form entries.
        operators: Number of nodes of each operator in the main graph, most frequent first.
        has_external_data: Whether tensors lie in other files.
    """

    content: bytes
    ir_version: int
    opset: int
    producer: str
    metadata: Mapping[str, str]
    operators: Mapping[str, int]
    has_external_data: bool

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of all that the file says but its entry ``FINGERPRINT_KEY``, which can thus hold it."""
        digest = hashlib.sha256()
        for number, value in _fields(memoryview(self.content)):
            if number == _METADATA and not isinstance(value, int) and _text(dict(_fields(value)).get(_KEY, b"")) == FINGERPRINT_KEY:
                continue
            size = -1 if isinstance(value, int) else len(value)
            digest.update(f"{number}:{size}:".encode())
            digest.update(str(value).encode() if isinstance(value, int) else value)
        return digest.hexdigest()


def read_model_file(path: Path) -> ModelFile:
    """Read a model from disk.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not an ONNX model.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelFormatError(f"{path}: cannot be read (it is not a file)")
        if size > MAX_BYTES:
            raise ModelFormatError(f"{path}: has {size:,} bytes, which is more than an ONNX file can have")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such model file; models come from `edgeresnet export`") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ModelFormatError):
            raise
        raise ModelFormatError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        return parse_model(content)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {explain(path, error)}") from error


def parse_model(content: bytes) -> ModelFile:
    """Read a model from memory.

    Raises:
        ModelFormatError: If the bytes are not an ONNX model.
    """
    ir_version, opset, producer, graph = 0, 0, ["", ""], None
    metadata: dict[str, str] = {}
    functions: list[memoryview] = []
    try:
        for number, value in _fields(memoryview(content)):
            if number == _IR_VERSION and isinstance(value, int):
                ir_version = value
            elif isinstance(value, int):
                continue
            elif number in (_PRODUCER, _PRODUCER_VERSION):
                producer[number - _PRODUCER] = str(value, "utf-8")
            elif number == _GRAPH:
                graph = value
            elif number == _FUNCTION:
                functions.append(value)
            elif number == _OPSET:
                entry = dict(_fields(value))
                if not entry.get(_OPSET_DOMAIN):
                    opset = _integer(entry.get(_OPSET_VERSION, 0))
            elif number == _METADATA:
                entry = dict(_fields(value))
                metadata[_text(entry.get(_KEY, b""))] = _text(entry.get(_VALUE, b""))
        if graph is None or ir_version < 1:
            raise ValueError("it has no graph")
        operators = _count_operators(graph)
        has_external_data = _has_external_data("graph", graph) or any(_has_external_data("function", function) for function in functions)
    except (ValueError, IndexError, TypeError) as error:
        raise ModelFormatError(f"not an ONNX model of {len(content):,} bytes ({error})") from error
    return ModelFile(
        content=content,
        ir_version=ir_version,
        opset=opset,
        producer=" ".join(producer).strip(),
        metadata=metadata,
        operators=operators,
        has_external_data=has_external_data,
    )


def _count_operators(graph: memoryview) -> dict[str, int]:
    nodes = (value for number, value in _fields(graph) if number == _NODE and not isinstance(value, int))
    return dict(Counter(_text(dict(_fields(node)).get(_OP_TYPE, b"")) for node in nodes).most_common())


def _has_external_data(kind: str, message: memoryview, depth: int = 0) -> bool:
    """Whether a tensor anywhere in a message, in branches and functions too, lies in another file."""
    if kind == "tensor":
        return any(number == _DATA_LOCATION and place == _EXTERNAL for number, place in _fields(message))
    if depth > _DEEPEST:
        raise ValueError(f"its graphs are nested more than {_DEEPEST} deep")
    holders = _HOLDERS[kind]
    return any(
        _has_external_data(holders[number], value, depth + 1)
        for number, value in _fields(message)
        if number in holders and not isinstance(value, int)
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a message: whole numbers as int, everything else as its bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if number == 0 or position + size > len(message):
            raise ValueError("it is cut off or something else")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = message[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _text(value: int | memoryview | bytes) -> str:
    if isinstance(value, int):
        raise TypeError("text was expected, a number found")
    return str(value, "utf-8")


def _integer(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise TypeError("a number was expected, bytes found")
    return value
