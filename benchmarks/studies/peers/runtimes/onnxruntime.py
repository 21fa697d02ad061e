"""ONNX Runtime's own quantization, by its documentation's recipes, of the same FP32 file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels
from edgeresnet.providers import load_onnxruntime
from edgeresnet.spec import INPUT_NAME


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    load_onnxruntime()
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.quant_utils import QuantType
    from onnxruntime.quantization.quantize import quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, target = materials.folder / "prepared.onnx", materials.folder / f"resnet18-{form}.onnx"
    quant_pre_process(materials.exports / "resnet18-fp32.onnx", prepared)
    if form == "dynamic":
        # Its ConvInteger takes unsigned weights only.
        quantize_dynamic(prepared, target, weight_type=QuantType.QUInt8)
        return [target]

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._images = iter(np.load(materials.calibration))

        def get_next(self) -> dict[Any, Any]:
            return {INPUT_NAME: image[None]} if (image := next(self._images, None)) is not None else {}

    quantize_static(prepared, target, Reader(), per_channel=True)
    return [target]


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(image: Pixels) -> Logits:
        logits: Logits = session.run(None, {INPUT_NAME: image})[0][0]
        return logits

    return run
