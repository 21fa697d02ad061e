"""ExecuTorch with XNNPACK; in INT8 by PyTorch 2's export quantization."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from edgeresnet.training.weights import load_weights

    model = load_weights(materials.weights).model.eval()
    # NumPy's new axis has a stride of 0, which ExecuTorch refuses.
    images = [torch.from_numpy(image)[None] for image in np.load(materials.calibration)]
    exported = torch.export.export(model, (images[0],))
    if form == "int8":
        exported = torch.export.export(_quantize(exported.module(), images), (images[0],))
    program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    target = materials.folder / f"resnet18-{form}.pte"
    target.write_bytes(program.buffer)
    return [target]


def _quantize(module: torch.nn.Module, images: list[torch.Tensor]) -> torch.nn.Module:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(module, quantizer)
    for image in images:
        prepared(image)
    quantized: torch.nn.Module = convert_pt2e(prepared)
    return quantized


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    # Its pool has a thread for every core of the machine, whatever this process may use, and no other way to say how many.
    portable_lib._unsafe_reset_threadpool(threads)  # noqa: SLF001
    method = Runtime.get().load_program(path).load_method("forward")

    def run(image: Pixels) -> Logits:
        logits: Logits = method.execute([torch.from_numpy(image)])[0][0].numpy()
        return logits

    return run
