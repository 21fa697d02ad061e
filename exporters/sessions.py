"""Runs models that need not be this project's own, so that what was made can be held against what it was made from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from edgeresnet.machine import available_cores
from edgeresnet.providers import load_onnxruntime, session_options


def show_values(model: onnx.ModelProto, names: Iterable[str], element_type: int) -> bytes:
    """The model with named intermediate values, all of one ONNX element type, among its outputs."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.extend(onnx.helper.make_tensor_value_info(name, element_type, None) for name in names)
    content: bytes = opened.SerializeToString()
    return content


def open_session(model: bytes, *, exact_products: bool = False, fused: bool = True, profile: Path | None = None) -> Any:
    """Open an ONNX Runtime session on the CPU, with every core that this process may use.

    Args:
        model: The ONNX file.
        exact_products: Let INT8 products saturate on no processor, at some cost in speed.
        fused: Let ONNX Runtime optimise the graph; otherwise it computes node by node.
        profile: Begin of the name of the file that a profile of the runs is written to.

    Raises:
        ExportError: If ONNX Runtime cannot load the model.
    """
    options = session_options(available_cores(), profile)
    if exact_products:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not fused:
        options.graph_optimization_level = load_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return load_onnxruntime().InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # ONNX Runtime's exceptions share no base class.
        raise ExportError(f"ONNX Runtime cannot load the model ({' '.join(str(error).split())[:300]})") from error


def run_session(session: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of a session, by name; tensors of a sequence by its name and their number.

    Raises:
        ExportError: If ONNX Runtime cannot run the model on that, or an output is neither.
    """
    names = [output.name for output in session.get_outputs()]
    try:
        answers = dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {value.shape}" for name, value in feeds.items())
        raise ExportError(f"ONNX Runtime cannot run the model on {shapes} ({' '.join(str(error).split())[:300]})") from error
    sequences = {f"{name} [{i}]": value for name, values in answers.items() if isinstance(values, list) for i, value in enumerate(values)}
    found = {name: value for name, value in answers.items() if not isinstance(value, list)} | sequences
    for name, value in found.items():
        if not isinstance(value, np.ndarray):
            raise ExportError(f"the output {name} is neither a tensor nor a sequence of tensors")
    return found
