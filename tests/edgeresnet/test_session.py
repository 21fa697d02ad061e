import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from edgeresnet.errors import ImageError, ModelFormatError, ModelNotFoundError, ProviderError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.machine import available_cores
from edgeresnet.session import Session
from edgeresnet.spec import ModelSpec
from exporters.metadata import stamp

PIXELS = synthetic_images(32, 5)


def test_the_provider_is_read_back_and_threads_default_to_the_cores(exports):
    session = Session(exports["fp32"].path)
    assert session.provider == "CPUExecutionProvider"
    assert session.threads == available_cores()
    assert session.size_bytes == exports["fp32"].path.stat().st_size


def test_cores_follow_the_affinity_mask():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_no_images_give_no_logits(exports, precision):
    assert Session(exports[precision].path).logits(PIXELS[:0]).shape == (0, 10)


@pytest.mark.parametrize("pixels", [PIXELS.astype(np.float32), PIXELS[0], PIXELS[:, :16], PIXELS[..., :1], [1], None])
def test_other_arrays_are_refused(exports, pixels):
    with pytest.raises(ImageError, match="pixels must be"):
        Session(exports["fp32"].path).logits(pixels)


def test_parallel_streams_keep_answers_and_order(exports):
    one, three = (Session(exports["int8"].path, threads=threads) for threads in (1, 3))
    expected = np.concatenate([one.logits(PIXELS[i : i + 1]) for i in range(len(PIXELS))])
    order = np.random.default_rng(0).permutation(np.arange(20) % len(PIXELS))
    np.testing.assert_allclose(three.logits(PIXELS[order]), expected[order], rtol=1e-5, atol=1e-5)
    with ThreadPoolExecutor(4) as callers:
        for logits in callers.map(three.logits, [PIXELS[::-1]] * 8):
            np.testing.assert_allclose(logits, expected[::-1], rtol=1e-5, atol=1e-5)
    three.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeresnet")]


def test_a_closed_session_says_so(exports):
    session = Session(exports["int8"].path)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.logits(PIXELS)


def test_files_that_cannot_be_run_are_refused(exports, tmp_path):
    with pytest.raises(ModelNotFoundError):
        Session(tmp_path / "none.onnx")
    model = onnx.load(exports["fp32"].path)
    spec = ModelSpec.from_metadata({entry.key: entry.value for entry in model.metadata_props})
    with pytest.raises(ModelFormatError, match="not those that its metadata promises"):
        Session(stamp(model, dataclasses.replace(spec, image_size=16)))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelFormatError, match=r"ONNX Runtime cannot load it.*NoSuchOperator"):
        Session(stamp(model, spec))
    del model.metadata_props[:]
    with pytest.raises(ModelFormatError, match="no edgeresnet metadata"):
        Session(model.SerializeToString())


def test_cuda_with_the_cpu_wheel_is_an_error_and_no_run(exports):
    with pytest.raises(ProviderError, match=r"'cuda' was asked for, but .* without CUDA .*edgeresnet\[gpu\]"):
        Session(exports["fp32"].path, provider="cuda")


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"device_id": -1}])
def test_senseless_settings_are_refused(exports, arguments):
    with pytest.raises(ValueError, match="must"):
        Session(exports["fp32"].path, **arguments)


def test_an_unknown_provider_is_refused_with_the_choice(exports):
    with pytest.raises(ProviderError, match="'tpu'; choose from cpu, cuda"):
        Session(exports["fp32"].path, provider="tpu")
