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

from edgeresnet.errors import ModelFormatError, ModelNotFoundError

# ModelProto
_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSET, _METADATA = 1, 2, 3, 7, 8, 14
# GraphProto, NodeProto, TensorProto, OperatorSetIdProto, StringStringEntryProto
_NODE, _INITIALIZER, _OP_TYPE, _DATA_LOCATION = 1, 5, 4, 14
_OPSET_DOMAIN, _OPSET_VERSION, _KEY, _VALUE = 1, 2, 1, 2
_EXTERNAL: Final = 1

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
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path}: no such model file; models come from `edgeresnet export`") from error
    except OSError as error:
        raise ModelFormatError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        return parse_model(content)
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from error


def parse_model(content: bytes) -> ModelFile:
    """Read a model from memory.

    Raises:
        ModelFormatError: If the bytes are not an ONNX model.
    """
    ir_version, opset, producer, graph = 0, 0, ["", ""], None
    metadata: dict[str, str] = {}
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
            elif number == _OPSET:
                entry = dict(_fields(value))
                if not entry.get(_OPSET_DOMAIN):
                    opset = _integer(entry.get(_OPSET_VERSION, 0))
            elif number == _METADATA:
                entry = dict(_fields(value))
                metadata[_text(entry.get(_KEY, b""))] = _text(entry.get(_VALUE, b""))
        if graph is None or ir_version < 1:
            raise ValueError("it has no graph")
        operators, has_external_data = _read_graph(graph)
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


def _read_graph(graph: memoryview) -> tuple[dict[str, int], bool]:
    counts: Counter[str] = Counter()
    external = False
    for number, value in _fields(graph):
        if isinstance(value, int):
            continue
        if number == _NODE:
            counts[_text(dict(_fields(value)).get(_OP_TYPE, b""))] += 1
        elif number == _INITIALIZER:
            external |= any(field == _DATA_LOCATION and place == _EXTERNAL for field, place in _fields(value))
    return dict(counts.most_common()), external


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
