"""What every conversion begins with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Files that the runtimes make theirs of; the worker of another environment reads them.

    Attributes:
        weights: Of the original, a safetensors file of ours.
        exports: Folder with this project's own files of those weights. Conversions of others begin with ``resnet18-fp32.onnx`` alone.
        calibration: uint8 (N, height, width, channels) in an .npy file, for ranges.
        folder: Where a conversion leaves its files.
    """

    weights: Path
    exports: Path
    calibration: Path
    folder: Path
