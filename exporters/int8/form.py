"""The dynamic INT8 form, as the search for the largest set of layers wants it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from exporters.foreign.inputs import ImageTensor
from exporters.int8.layertimes import time_int8_layers
from exporters.int8.layout import Layout
from exporters.int8.operators import name_of
from exporters.int8.products import Product, compute_product, plan_product
from exporters.int8.quantize import LayerChoice, QuantizedModel, quantize_dynamic_int8
from exporters.int8.saturation import PROBE_IMAGES, find_saturating_layers
from exporters.int8.sensitivity import LayerEmitter
from exporters.int8.weights import ColumnQuantizer
from exporters.probes import generate_probes


class DynamicForm:
    """Activations get their scale as the model runs.

    Args:
        model: A checked FP32 model.
        image: What it reads.
        left: Layers that stay in FP32 in any case, each with the reason.

    Raises:
        ExportError: If nothing of it can be quantized.
    """

    precision: Final = "int8"

    def __init__(self, model: onnx.ModelProto, image: ImageTensor, left: Mapping[str, str]) -> None:
        self.model, self._quantizer = model, ColumnQuantizer()
        everything = quantize_dynamic_int8(model, left=left, quantizer=self._quantizer)
        self._safe = find_saturating_layers(everything.model, _make_saturation_probe(image))

    def quantize(self, left: Mapping[str, str]) -> QuantizedModel:
        """All layers but those named in INT8."""
        return quantize_dynamic_int8(self.model, saturation_safe=self._safe, left=left, quantizer=self._quantizer)

    def emitter(self, layers: Sequence[LayerChoice]) -> LayerEmitter:
        """Puts the INT8 form of one of these layers beside it."""
        safe = {layer.name for layer in layers if layer.saturation_safe}

        def emit(layout: Layout, node: ir.Node) -> ir.Value:
            plan, name = plan_product(node), name_of(node)
            if not isinstance(plan, Product):
                raise ExportError(f"{name}: {plan}")
            result = compute_product(layout, node, plan, saturation_safe=name in safe, quantizer=self._quantizer)
            return result if plan.windows is None else layout.turn_back(result, layout.shape(node.outputs[0]), f"{name}/int8")

        return emit

    def time_layers(self, quantized: QuantizedModel, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Milliseconds of each layer in INT8."""
        return time_int8_layers(quantized.model, feeds)


def _make_saturation_probe(image: ImageTensor) -> NDArray[Any]:
    """What `edgeresnet export` takes, so that the same network becomes the same file."""
    (first, *others) = generate_probes(image, PROBE_IMAGES)[0].calls
    return first if image.batch is not None else np.concatenate([first, *(call for call in others if len(call) == 1)])
