"""Runs a batch whose input and output stay on the device: no copies but those that are asked for."""

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeresnet.images import Pixels
from edgeresnet.spec import INPUT_NAME


class BoundBatch:
    """Input and output of one batch size, allocated on the device once.

    Not for use from several threads at once: the buffers are shared.

    Args:
        ort: The ONNX Runtime module.
        session: ONNX Runtime's session.
        device: ``cpu`` or ``cuda``.
        device_id: Which GPU.
        shape: Of the input: (batch, height, width, channels).
        output: Name of the graph's output.
        classes: Number of classes.
        graph_id: Name of the CUDA graph that this batch size is recorded as; None to run kernel by kernel.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        *,
        device: str,
        device_id: int,
        shape: tuple[int, ...],
        output: str,
        classes: int,
        graph_id: int | None,
    ) -> None:
        self._session = session
        self._input = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.uint8), device, device_id)
        self._output = ort.OrtValue.ortvalue_from_shape_and_type((shape[0], classes), np.float32, device, device_id)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT_NAME, self._input)
        self._binding.bind_ortvalue_output(output, self._output)
        self._options = ort.RunOptions()
        if graph_id is not None:
            self._options.add_run_config_entry("gpu_graph_id", str(graph_id))

    def write(self, pixels: Pixels) -> None:
        """Copy uint8 (batch, height, width, channels) to the device."""
        self._input.update_inplace(np.ascontiguousarray(pixels))

    def run(self) -> None:
        """Run the model on what was written last, and wait until it is done."""
        self._session.run_with_iobinding(self._binding, self._options)
        self._binding.synchronize_outputs()

    def read(self) -> NDArray[np.float32]:
        """Copy the output of the last run to the host: float32 (batch, classes)."""
        output: NDArray[np.float32] = self._output.numpy()
        return output
