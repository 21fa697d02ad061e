"""How a Resize of images works on rows of pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from exporters.int8.layout import ImageShape
from exporters.sessions import open_session, run_session

_MODES: Final = frozenset({"nearest", "linear"})
_COORDINATES, _ROUNDING = "coordinate_transformation_mode", "nearest_mode"


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """A Resize of height and width alone.

    Attributes:
        before: Shape of what it reads.
        after: Of its result.
        mode: ``nearest`` or ``linear``.
        settings: Its other attributes.
        scales: Factors of height and width, float32 (2,).
    """

    before: ImageShape
    after: ImageShape
    mode: str
    settings: dict[str, str]
    scales: NDArray[np.float32]

    @classmethod
    def of(cls, node: ir.Node) -> "Resizing | None":
        """A node as such, or None if it does more, does otherwise, or its factors are not known."""
        before, after = (None if value is None else ImageShape.of(value) for value in (node.inputs[0], node.outputs[0]))
        mode, coordinates = node.attributes.get_string("mode", "nearest"), node.attributes.get_string(_COORDINATES, "half_pixel")
        if before is None or after is None or before.channels != after.channels or mode not in _MODES:
            return None
        if coordinates == "tf_crop_and_resize" or node.attributes.get_int("antialias", 0) != 0:
            return None
        if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
            return None
        axes = [axis % 4 for axis in node.attributes.get_ints("axes", range(4))]
        scales, sizes = (_of_the_image(node, index, axes) for index in (2, 3))
        old, new = (np.array([shape.height, shape.width], np.float32) for shape in (before, after))
        if scales is None and sizes is not None:
            scales = new / old  # as ONNX Runtime computes them
            if mode == "linear":  # onnx multiplies in float64, where the product may be a little less than the size
                scales = np.where(np.floor(old.astype(float) * scales) < new, np.nextafter(scales, np.float32(np.inf)), scales)
        if scales is None or (np.floor(old * scales) != new).any():
            return None
        settings = {_COORDINATES: coordinates}
        if mode == "nearest":
            settings[_ROUNDING] = node.attributes.get_string(_ROUNDING, "round_prefer_floor")
        return cls(before=before, after=after, mode=mode, settings=settings, scales=scales)

    def nearest(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Which line and which column of the image each of the result is, for the mode ``nearest``: ONNX Runtime is asked."""
        x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, None, None])
        y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        scales = onnx.numpy_helper.from_array(np.concatenate([np.ones(2, np.float32), self.scales]), "scales")
        node = onnx.helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=self.mode, **self.settings)
        graph = onnx.helper.make_graph([node], "nearest", [x], [y], [scales])
        model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
        session = open_session(model.SerializeToString())
        lines = np.arange(self.before.height, dtype=np.float32)[:, None] + np.zeros(self.before.width, np.float32)
        columns = np.zeros((self.before.height, 1), np.float32) + np.arange(self.before.width, dtype=np.float32)
        down, across = (run_session(session, {"x": numbers[None, None]})["y"][0, 0] for numbers in (lines, columns))
        return down[:, 0].astype(np.int32), across[0].astype(np.int32)


def _of_the_image(node: ir.Node, index: int, axes: Sequence[int]) -> NDArray[Any] | None:
    """Scales or sizes of height and width, or None if they are not given or not constant."""
    value = node.inputs[index] if len(node.inputs) > index else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size != len(axes) or not {2, 3} <= set(axes):
        return None
    found: NDArray[Any] = tensor.numpy()[[axes.index(2), axes.index(3)]]
    return found
