"""Two forms of one image tensor: NCHW, as ONNX's operators want it, and rows, as matrix products want it."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from exporters.foreign.opset import raise_opset
from exporters.int8.windows import Windows

# Steps of 8 bits.
LEVELS: Final = 255
# Tables of more row numbers are not stored: the nodes that compute one take less of the file.
STORED_ROWS: Final = 128
Attribute = int | float | str | Sequence[int]


@dataclass(frozen=True)
class ImageShape:
    """Channels, height and width of an image tensor whose batch is left open; a line, (N, C, W), has height 1 but no axis for it."""

    channels: int
    height: int
    width: int
    is_line: bool = False

    @property
    def pixels(self) -> int:
        """Rows of the tensor's other form."""
        return self.height * self.width

    @classmethod
    def of(cls, value: ir.Value) -> "ImageShape | None":
        """Shape of a value, or None if it is not an image tensor of known size."""
        if value.shape is None or len(value.shape) != 4 or not all(isinstance(size, int) for size in value.shape[1:]):
            return None
        channels, height, width = (int(size) for size in value.shape[1:] if isinstance(size, int))
        return cls(channels, height, width)

    @classmethod
    def of_image_or_line(cls, value: ir.Value) -> "ImageShape | None":
        """Shape of a value, or None if it is neither an image tensor nor a line of known size."""
        if value.shape is None or len(value.shape) != 3:
            return cls.of(value)
        channels, width = value.shape[1:]
        return cls(channels, 1, width, is_line=True) if isinstance(channels, int) and isinstance(width, int) else None


class Quantized(NamedTuple):
    """Values in 8 bits: ``float = (value - zero_point) * scale``.

    Attributes:
        values: uint8.
        scale: float32 scalar.
        zero_point: uint8 scalar.
    """

    values: ir.Value
    scale: ir.Value
    zero_point: ir.Value


def add_initializer(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.Value:
    """A constant of a graph, whose name must be free."""
    constant = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    constant.shape, constant.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(constant)
    return constant


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in the opset that the forms here are written for, with the shapes of its values."""
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    return onnx.shape_inference.infer_shapes(raise_opset(raised), data_prop=True)


class Layout:
    """Emits nodes into a graph and knows which values exist in which form.

    A value of the original graph, NCHW float32 (N, C, H, W), may get a second form, rows (N, H*W, C). Once it has, its original
    node is superseded, and whoever still wants NCHW gets it from the rows. Each conversion is made once.

    Postcondition of every method: the graph computes what it did before, up to the rounding that the caller introduces.

    Args:
        graph: The nodes go there.
        read_in_int8: Values of the original graph that convolutions in INT8 read, and nobody else.
    """

    def __init__(self, graph: ir.Graph, read_in_int8: Container[ir.Value] = ()) -> None:
        self._graph, self._read_in_int8 = graph, read_in_int8
        self._rows: dict[ir.Value, ir.Value] = {}
        self._nchw: dict[ir.Value, ir.Value] = {}
        self._quantized: dict[ir.Value, Quantized] = {}
        self._quantized_alone: dict[ir.Value, Quantized] = {}
        self._padded: dict[ir.Value, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._tables: dict[Windows, ir.Value] = {}
        self._here: ir.Node | None = None
        self._names = _names_in(graph)

    def work_before(self, node: ir.Node | None) -> None:
        """Place what is emitted from now on before a node of the graph, or at its end."""
        self._here = node

    def has_rows(self, value: ir.Value) -> bool:
        """Whether a value exists as rows, be they floats or in 8 bits."""
        return value in self._rows or value in self._quantized_alone

    def has_nchw(self, value: ir.Value) -> bool:
        """Whether a value exists as NCHW."""
        return not self.has_rows(value) or value in self._nchw

    def rows(self, value: ir.Value) -> ir.Value:
        """The rows form of an image tensor."""
        if value not in self._rows:
            shape, name = self.shape(value), f"{value.name}/rows"
            if shape.is_line:
                self._rows[value] = self.emit("Transpose", [value], {"perm": [0, 2, 1]}, name=name)
            else:
                turned = self.emit("Transpose", [value], {"perm": [0, 2, 3, 1]}, name=f"{value.name}/turned")
                self._rows[value] = self.emit("Reshape", [turned, self.constant([0, shape.pixels, shape.channels])], name=name)
            self._nchw[value] = value
        return self._rows[value]

    def nchw(self, value: ir.Value) -> ir.Value:
        """The NCHW form of a value; values that were never turned into rows are their own."""
        if value not in self._rows:
            return value
        if value not in self._nchw:
            self._nchw[value] = self.turn_back(self._rows[value], self.shape(value), value.name or "value")
        return self._nchw[value]

    def turn_back(self, rows: ir.Value, shape: ImageShape, name: str) -> ir.Value:
        """Rows of an image tensor as NCHW."""
        if shape.pixels > 1:
            rows = self.emit("Transpose", [rows], {"perm": [0, 2, 1]}, name=f"{name}/turned_back")
        sides = [shape.width] if shape.is_line else [shape.height, shape.width]
        return self.emit("Reshape", [rows, self.constant([0, shape.channels, *sides])], name=f"{name}/nchw")

    def supersede(self, value: ir.Value, rows: ir.Value) -> None:
        """Give a value of the original graph a rows form that was computed otherwise."""
        self._rows[value] = rows

    def needs_no_floats(self, value: ir.Value) -> bool:
        """Whether convolutions in INT8 alone read a value of the original graph."""
        return value in self._read_in_int8

    def supersede_quantized(self, value: ir.Value, rows: Quantized) -> None:
        """Give a value that needs no floats a rows form in 8 bits, and no other."""
        self._quantized_alone[value] = rows

    def keep_nchw(self, value: ir.Value) -> None:
        """Let a superseded value go on being its own NCHW form."""
        self._nchw[value] = value

    def replace(self, value: ir.Value, other: ir.Value) -> None:
        """Let everybody who reads a value of the original graph read another one; a graph output keeps its name."""
        if value.is_graph_output():
            value.name, other.name = self.unique(f"{value.name}/original"), value.name
            other.shape, other.type = value.shape, value.type
        value.replace_all_uses_with(other, replace_graph_outputs=True)

    def shape(self, value: ir.Value) -> ImageShape:
        """Shape of an image tensor; the value must be one."""
        shape = ImageShape.of_image_or_line(value)
        if shape is None:
            raise ExportError(f"{value.name}: its height and width are not fixed")
        return shape

    def quantized_rows(self, value: ir.Value) -> Quantized:
        """The rows form of an image tensor in 8 bits."""
        return self._quantized_alone[value] if value in self._quantized_alone else self.quantized(self.rows(value))

    def quantized(self, floats: ir.Value) -> Quantized:
        """Floats in 8 bits, with a scale of their own; shared by all that read the same."""
        if floats not in self._quantized:
            self._quantized[floats] = Quantized(*self.emit_all("DynamicQuantizeLinear", [floats], 3, name=f"{floats.name}/quantized"))
        return self._quantized[floats]

    def with_padding_row(self, rows: ir.Value, zero_point: ir.Value) -> ir.Value:
        """Quantized rows with one more that means zero, for windows that reach beyond the image."""
        if rows not in self._padded:
            pads, axis = self.constant([0, 1]), self.constant([1])
            self._padded[rows] = self.emit("Pad", [rows, pads, zero_point, axis], name=f"{rows.name}/padded")
        return self._padded[rows]

    def table(self, windows: Windows) -> ir.Value:
        """Row numbers of windows, (windows * size,), as ``Windows.rows`` says: what a Gather takes.

        Large ones are sums, which ONNX Runtime computes as it loads. Stored they were 0.6 of the 3.8 MB of a detector for 320x320 pixels.
        """
        if windows not in self._tables:
            rows = windows.rows()
            if rows.size > STORED_ROWS:
                lines, columns = windows.lines_and_columns()
                sums = self.emit("Add", [self.constant(lines, "lines"), self.constant(columns, "columns")], name="windows/sums")
                beyond = self.constant(np.array(windows.height * windows.width, np.int32), "beyond")
                numbers = self.emit("Min", [sums, beyond], name="windows/numbers")
                self._tables[windows] = self.emit("Reshape", [numbers, self.constant([-1])], name="windows")
            else:
                self._tables[windows] = self.constant(rows.reshape(-1), "windows")
        return self._tables[windows]

    def constant(self, value: Sequence[int] | NDArray[Any], name: str = "constant") -> ir.Value:
        """An initializer; lists become int64. Equal ones are shared."""
        array = np.asarray(value, np.int64) if isinstance(value, list) else np.ascontiguousarray(value)
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = add_initializer(self._graph, array, self.unique(name))
        return self._constants[key]

    def scalar(self, number: np.float32 | np.uint8, name: str) -> ir.Value:
        """An initializer without dimensions, such as QuantizeLinear takes. Equal ones are shared."""
        key = (str(number.dtype), (), number.tobytes())
        if key not in self._constants:
            self._constants[key] = add_initializer(self._graph, np.array(number), self.unique(name))
        return self._constants[key]

    def emit(
        self, operator: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Attribute] | None = None, *, name: str
    ) -> ir.Value:
        """Add a node with one output, called ``name`` if that is free."""
        (value,) = self.emit_all(operator, inputs, 1, attributes, name=name)
        return value

    def emit_all(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str,
    ) -> tuple[ir.Value, ...]:
        """Add a node with several outputs and return them."""
        node = ir.node(operator, inputs, attributes, num_outputs=outputs, name=self.unique(name))
        for i, value in enumerate(node.outputs):
            value.name = node.name if i == 0 else self.unique(f"{name}_{i}")
        if self._here is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._here, node)
        return tuple(node.outputs)

    def unique(self, name: str) -> str:
        """A name that is free, and taken from now on: this one or, with a number, one like it."""
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique


def _names_in(graph: ir.Graph) -> set[str]:
    """Names that are taken: of inputs, constants and results, in branches too."""
    nodes = list(ir.traversal.RecursiveGraphIterator(graph))
    graphs = [
        graph,
        *(attribute.as_graph() for node in nodes for attribute in node.attributes.values() if attribute.type == ir.AttributeType.GRAPH),
    ]
    values = [value for node in nodes for value in node.outputs]
    values += [value for part in graphs for value in (*part.inputs, *part.initializers.values())]
    return {value.name for value in values if value.name} | {node.name for node in nodes if node.name}
