"""PyTorch itself: eager, compiled, and in bfloat16."""

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.studies.peers.materials import Materials
from edgeresnet.evaluation import Logits
from edgeresnet.images import Pixels
from edgeresnet.training.weights import load_weights


def convert(form: str, materials: Materials) -> list[Path]:
    """See ``runtimes``."""
    return [materials.weights]


def load(form: str, path: Path, threads: int) -> Callable[[Pixels], Logits]:
    """See ``runtimes``."""
    torch.set_num_threads(threads)
    model = load_weights(path).model.eval()
    if form.startswith("bfloat16"):
        model = model.to(torch.bfloat16)
    network = torch.compile(model) if form.endswith("compiled") else model

    @torch.inference_mode()
    def run(image: Pixels) -> Logits:
        logits: Logits = network(torch.from_numpy(image))[0].float().numpy()
        return logits

    return run
