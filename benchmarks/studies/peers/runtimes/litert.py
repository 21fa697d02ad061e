"""LiteRT (TensorFlow Lite, with XNNPACK), by its converter and quantizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    import litert_torch
    import torch
    from ai_edge_quantizer import quantizer, recipe

    from edgeresnet.training.weights import load_weights

    trained = load_weights(materials.weights)
    plain, target = materials.folder / "plain.tflite", materials.folder / f"resnet18-{form}.tflite"
    image = torch.zeros(1, *trained.spec.input.shape, dtype=torch.uint8)
    litert_torch.convert(trained.model.eval(), (image,)).export(str(plain))
    if form == "fp32":
        return [plain.rename(target)]
    work = quantizer.Quantizer(str(plain))
    calibrated = None
    if form == "dynamic":
        work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    else:
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        (signature,) = _open(plain, 1).get_signature_list().items()
        inputs = signature[1]["inputs"]
        calibrated = work.calibrate({signature[0]: [{inputs[0]: image[None]} for image in np.load(materials.calibration)]})
    work.quantize(calibrated).export_model(str(target), overwrite=True)
    return [target]


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    interpreter = _open(path, threads)
    (source,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    # The full INT8 form answers in int8; a scale of 0 says that the others do not.
    scale, zero = answer["quantization"]

    def run(image: Pixels) -> Logits:
        interpreter.set_tensor(source["index"], image)
        interpreter.invoke()
        logits: Logits = interpreter.get_tensor(answer["index"])[0]
        return np.float32(scale) * (logits.astype(np.float32) - zero) if scale else logits

    return run


def _open(path: Path, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter
