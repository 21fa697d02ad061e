"""What ONNX Runtime makes of a file as it loads it."""

import onnx
import onnxruntime
import pytest


@pytest.fixture
def optimized(tmp_path):
    """Loads a file, or its content, and gives the graph that runs: here, or what is the same on any CPU."""

    def load(model, *, on_any_cpu=False):
        options, levels = onnxruntime.SessionOptions(), onnxruntime.GraphOptimizationLevel
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if on_any_cpu else levels.ORT_ENABLE_ALL
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath).graph

    return load
