"""A network that is at hand as an FP32 ONNX file of this project: exported, or adopted from somebody else's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from numpy.typing import NDArray

from edgeresnet.errors import ModelFormatError
from edgeresnet.images import Pixels
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxNetwork:
    """A network read from its FP32 file.

    Attributes:
        fp32: The graph.
        spec: What the file says of it.
        session: That runs it.
    """

    fp32: onnx.ModelProto
    spec: ModelSpec
    session: Session

    @classmethod
    def read(cls, path: Path) -> Self:
        """Open a file.

        Raises:
            ModelNotFoundError: If there is no such file.
            ModelFormatError: If it is not an FP32 file of this project.
        """
        session = Session(path)
        if session.spec.precision != "fp32":
            raise ModelFormatError(f"{path}: is {session.spec.precision}; other precisions are made from the fp32 file")
        return cls(fp32=onnx.load(path), spec=session.spec, session=session)

    def logits(self, pixels: Pixels) -> NDArray[np.float32]:
        """Run the network on uint8 (N, height, width, channels); the result is float32 (N, classes)."""
        return self.session.logits(pixels)
