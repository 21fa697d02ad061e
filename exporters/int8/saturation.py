"""Which layers of a quantized model would saturate on processors that add INT8 products in 16 bits."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.int8.products import PRODUCT_SUFFIX
from exporters.int8.quantize import QuantizedModel, quantize_dynamic_int8
from exporters.int8.weights import saturation_db
from exporters.sessions import open_session, show_values

# Rounding activations to 8 bits is noise near 40 dB below a layer's result: at 50 dB saturation no longer counts beside it.
TOLERATED_DB: Final = 50.0
SAMPLED_ROWS: Final = 64
# Generated images that show it.
PROBE_IMAGES: Final = 8


def quantize_without_saturation(model: onnx.ModelProto, probe: NDArray[Any], *, left: Mapping[str, str] | None = None) -> QuantizedModel:
    """Quantize a model, with safe weights in the layers that need them and all 8 bits in the others.

    Args:
        model: A checked FP32 model with one input.
        probe: Values of that input, as for ``find_saturating_layers``.
        left: Names of layers that stay in FP32, each with the reason.

    Raises:
        ExportError: As ``quantize_dynamic_int8`` does.
    """
    quantized = quantize_dynamic_int8(model, left=left)
    saturating = find_saturating_layers(quantized.model, probe)
    return quantize_dynamic_int8(model, saturation_safe=saturating, left=left) if saturating else quantized


def find_saturating_layers(model: onnx.ModelProto, probe: NDArray[Any]) -> frozenset[str]:
    """Names of the layers that x86 processors without VNNI would compute wrongly, by what they read for some inputs.

    The layers' inputs are recorded in one run, and a sample of their rows is multiplied exactly and with saturation; so the
    answer does not depend on the processor that this runs on.

    Args:
        model: What ``quantize_dynamic_int8`` made, with weights that are not saturation-safe.
        probe: Inputs of the model. Which layers saturate depends little on them; no labels and no real data are needed.
    """
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger" and node.name.endswith(PRODUCT_SUFFIX)]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    generator = np.random.default_rng(0)
    found = set()
    for node, (values, zero_point) in zip(products, _record(model, [list(node.input[::2]) for node in products], probe), strict=True):
        rows = values.reshape(-1, values.shape[-1])
        sample = rows[generator.permutation(len(rows))[:SAMPLED_ROWS]]
        if saturation_db(sample, int(zero_point), onnx.numpy_helper.to_array(weights[node.input[1]])) < TOLERATED_DB:
            found.add(node.name.removesuffix(PRODUCT_SUFFIX))
    return frozenset(found)


def _record(model: onnx.ModelProto, groups: list[list[str]], probe: NDArray[Any]) -> list[list[NDArray[Any]]]:
    """Run a model and return the named constants and intermediate values, in groups as asked for."""
    asked = {name for group in groups for name in group}
    found: dict[str, NDArray[Any]] = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name in asked
    }
    names = sorted(asked - found.keys())
    # Exact: an early layer that saturates should not accuse the later ones.
    session = open_session(show_values(_with_own_weights(model), names, onnx.TensorProto.UINT8), exact_products=True)
    found |= zip(names, session.run(names, {session.get_inputs()[0].name: probe}), strict=True)
    return [[found[name] for name in group] for group in groups]


def _with_own_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a matrix of its own for each product: with exact products ONNX Runtime loads none that two of them share."""
    own = onnx.ModelProto()
    own.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in own.graph.initializer}
    used: set[str] = set()
    for number, node in enumerate(own.graph.node):
        if node.op_type != "MatMulInteger":
            continue
        name = node.input[1]
        if name in used and name in tensors:
            copy = own.graph.initializer.add()
            copy.CopyFrom(tensors[name])
            copy.name = node.input[1] = f"{name}/own_{number}"
        used.add(name)
    return own
