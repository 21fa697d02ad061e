"""OpenVINO, from the same FP32 file; in INT8 by NNCF."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    source = materials.exports / "resnet18-fp32.onnx"
    if form != "int8":
        return [source]
    import nncf

    model = openvino.Core().read_model(source)
    images = np.load(materials.calibration)
    quantized = nncf.quantize(model, nncf.Dataset(images, lambda image: image[None]), subset_size=len(images))
    target = materials.folder / "resnet18.xml"
    openvino.save_model(quantized, target, compress_to_fp16=False)
    return [target, target.with_suffix(".bin")]


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    if form != "int8":
        # Where the processor can, it computes an FP32 model in bfloat16 if nobody says otherwise.
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if form == "bfloat16" else "f32"
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(_one_image(model))
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(image: Pixels) -> Logits:
        logits: Logits = request.infer([image])[0][0]
        return logits

    return run


def _one_image(model: Any) -> list[int]:
    return [1, *(dimension.get_length() for dimension in list(model.input(0).partial_shape)[1:])]
