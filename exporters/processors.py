"""What pays on processors that are not at hand, as far as it was measured, where nothing can be timed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import onnx
import onnx_ir as ir

from edgeresnet.machine import instruction_sets
from exporters.int8.layout import with_shapes
from exporters.int8.operators import constant_array, name_of
from exporters.int8.products import LAYERS
from exporters.int8.quantize import QuantizedModel

# x86 with AVX2 alone, x86 with VNNI (AMX among them) and 64-bit ARM, each with the products per value that a layer must have for its
# dynamic form to pay. On AVX2 the 473 convolutions of ten networks at 224x224 took 0.96 times as long in FP32 as in INT8 where those were
# 20 to 30, 1.06 where they were 30 to 40, and 1.29 from there to 60. The others multiply bytes faster, and no layer was timed on them.
PROCESSORS: Final[Mapping[str, int]] = {"avx2": 30, "vnni": 0, "arm64": 0}


@dataclass(frozen=True)
class LayerWork:
    """What a layer does for one image.

    Attributes:
        products: Of two numbers.
        values: That it reads or writes, weights aside.
    """

    products: int
    values: int


def count_work(model: onnx.ModelProto) -> dict[str, LayerWork]:
    """Of each layer with constant weights and known shapes, by the name of its result."""
    found = {}
    for node in ir.from_proto(with_shapes(model)).graph:
        weights = constant_array(node.inputs[1]) if node.op_type in LAYERS and not node.domain else None
        before, after = (_sizes(value) for value in (node.inputs[0], node.outputs[0])) if weights is not None else (None, None)
        if weights is None or before is None or after is None:
            continue
        # Each weight meets every pixel of what the layer gives, or of what it reads if it is transposed.
        sizes = before if node.op_type == "ConvTranspose" else after
        pixels = math.prod(sizes[1:] if node.op_type in ("Conv", "ConvTranspose") else sizes[:-1])
        found[name_of(node)] = LayerWork(weights.size * pixels, math.prod(before) + math.prod(after))
    return found


def _sizes(value: ir.Value | None) -> list[int] | None:
    """Of each axis but the first, which is the batch's; None if they are not known."""
    if value is None or value.shape is None or len(value.shape) < 2:
        return None
    sizes = [size for size in value.shape[1:] if isinstance(size, int)]
    return sizes if len(sizes) == len(value.shape) - 1 else None


def find_unpaying(work: Mapping[str, LayerWork], processor: str) -> dict[str, str]:
    """Layers whose dynamic form does not pay on one of ``PROCESSORS``, each with the reason."""
    least = PROCESSORS[processor]
    return {
        name: f"does not pay on {processor}: {layer.products // layer.values} products a value, {least} are needed"
        for name, layer in work.items()
        if layer.products < least * layer.values
    }


def has_vnni(processor: str) -> bool:
    """Whether one of ``PROCESSORS``, or this machine if it is empty, multiplies bytes by VNNI."""
    return processor == "vnni" if processor else not {"avx_vnni", "avx512_vnni"}.isdisjoint(instruction_sets())


def share_in_int8(quantized: QuantizedModel, work: Mapping[str, LayerWork]) -> float:
    """Of the products of all layers whose work is known, how many are of layers in INT8; 0 if there is no such layer."""
    known = {layer: work[layer.name].products for layer in quantized.layers if layer.name in work}
    return sum(products for layer, products in known.items() if layer.quantized) / max(1, sum(known.values()))
