"""Every error this project raises on purpose.

Each child also inherits the builtin that a caller who does not know us would catch. A message says what was wrong, the
value that was received, and how to fix it. Anything that is not an ``EdgeResNetError`` is a bug and keeps its traceback.
"""


class EdgeResNetError(Exception):
    """Base of all deliberate errors."""


class ModelNotFoundError(EdgeResNetError, FileNotFoundError):
    """There is no model file at the given path."""


class ModelFormatError(EdgeResNetError, ValueError):
    """The file is not an ONNX model that this project can run."""


class ImageError(EdgeResNetError, ValueError):
    """The input is not an image that can be classified."""


class ProviderError(EdgeResNetError, RuntimeError):
    """The requested execution provider cannot run the model on this machine."""


class MissingExtraError(EdgeResNetError, ImportError):
    """An optional dependency is not installed; the message has the pip line."""

    def __init__(self, missing: str, extra: str) -> None:
        super().__init__(f"{missing} is not installed; fix: pip install 'edgeresnet[{extra}]'")


class DataError(EdgeResNetError, ValueError):
    """The data set is missing, empty, broken or of an unknown layout."""


class DataWarning(UserWarning):
    """A part of a data set was left out."""


class ExportError(EdgeResNetError, RuntimeError):
    """An exported model failed to be written or does not match its original."""


class PreprocessingError(EdgeResNetError, ValueError):
    """What a user says of a network's images makes no sense, by itself or together."""


class NetworkError(EdgeResNetError, ValueError):
    """There is no such network, or it cannot do what is asked of it."""


class CheckpointError(EdgeResNetError, ValueError):
    """A weights file or a training state cannot be used."""


class TrainingError(EdgeResNetError, FloatingPointError):
    """A training run has diverged."""


class BenchmarkError(EdgeResNetError, RuntimeError):
    """A model could not be measured."""
