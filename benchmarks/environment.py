"""Where a measurement was taken."""

import os
import platform
from typing import Any

from edgeresnet.machine import available_cores, cpu_model, installed_version, instruction_sets, nvidia_gpus

PACKAGES = (
    "edgeresnet",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "torchvision",
    "onnx",
    "numpy",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "litert-torch",
)


def describe_environment() -> dict[str, Any]:
    """Everything about machine and software that a figure depends on, as JSON values."""
    return {
        "cpu": cpu_model(),
        "instruction_sets": list(instruction_sets()),
        "gpus": list(nvidia_gpus()),
        "cores_online": os.cpu_count(),
        "cores_allowed": available_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed_version(name))},
    }
