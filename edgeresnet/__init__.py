"""Run a trained image network on the edge.

>>> from edgeresnet import Classifier
>>> Classifier().predict("cat.jpg")  # doctest: +SKIP
Prediction(label='cat', score=0.9871)

Names are imported on first use, so that ``import edgeresnet`` costs a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from edgeresnet.errors import (
    CheckpointError,
    DataError,
    DataWarning,
    EdgeResNetError,
    ExportError,
    ImageError,
    MissingExtraError,
    ModelFormatError,
    ModelNotFoundError,
    ProviderError,
    TrainingError,
)

if TYPE_CHECKING:
    from edgeresnet.classifier import Classifier, Prediction

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Classifier",
    "DataError",
    "DataWarning",
    "EdgeResNetError",
    "ExportError",
    "ImageError",
    "MissingExtraError",
    "ModelFormatError",
    "ModelNotFoundError",
    "Prediction",
    "ProviderError",
    "TrainingError",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name in ("Classifier", "Prediction"):
        return getattr(import_module("edgeresnet.classifier"), name)
    raise AttributeError(f"module 'edgeresnet' has no attribute {name!r}")
