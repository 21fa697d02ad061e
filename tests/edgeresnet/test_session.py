import dataclasses
import hashlib
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeresnet.errors import ImageError, ModelFormatError, ModelNotFoundError, ProviderError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.machine import available_cores
from edgeresnet.session import Session
from edgeresnet.spec import ImageInput, ModelSpec
from edgeresnet.target import Target
from exporters.metadata import stamp

PIXELS = synthetic_images(32, 5)


def test_the_provider_is_read_back_and_threads_default_to_the_cores(exports):
    session = Session(exports["fp32"].path)
    assert session.provider == "CPUExecutionProvider"
    assert session.target.cores == available_cores()
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
    one, three = (Session(exports["int8"].path, Target(threads=threads)) for threads in (1, 3))
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
        Session(stamp(model, dataclasses.replace(spec, input=ImageInput.of(16))))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelFormatError, match=r"ONNX Runtime cannot load it.*NoSuchOperator"):
        Session(stamp(model, spec))
    del model.metadata_props[:]
    with pytest.raises(ModelFormatError, match="no edgeresnet metadata"):
        Session(model.SerializeToString())


def test_cuda_with_the_cpu_wheel_is_an_error_and_no_run(exports):
    with pytest.raises(ProviderError, match=r"'cuda' was asked for, but .* without CUDA .*edgeresnet\[gpu\]"):
        Session(exports["fp32"].path, Target(provider="cuda"))


SENSELESS = [
    {"threads": 0},
    {"micro_batch": 0},
    {"streams": 3, "threads": 2},
    {"provider": "auto", "provider_options": {"device_id": "0"}},
]


@pytest.mark.parametrize("arguments", SENSELESS)
def test_senseless_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="must"):
        Target(**arguments)


def test_an_unknown_provider_is_refused_with_the_choice():
    with pytest.raises(ProviderError, match="'tpu'; choose from cpu, cuda, openvino, auto"):
        Target(provider="tpu")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_buffers_on_the_device_give_the_same_logits(exports, precision):
    session = Session(exports[precision].path, Target(threads=1))
    batch = session.bind(1)
    for pixels in (PIXELS[:1], PIXELS[3:4]):
        batch.write(pixels)
        batch.run()
        np.testing.assert_array_equal(batch.read(), session.logits(pixels))


def test_streams_and_micro_batches_keep_answers_and_order(exports):
    pixels = PIXELS[np.arange(20) % len(PIXELS)]
    expected = Session(exports["fp32"].path, Target(threads=1)).logits(pixels)
    for settings in ({"micro_batch": 3}, {"streams": 2, "micro_batch": 3}, {"streams": 3, "threads": 3, "micro_batch": 1}):
        session = Session(exports["fp32"].path, Target(**{"threads": 2} | settings))
        np.testing.assert_allclose(session.logits(pixels), expected, rtol=1e-4, atol=1e-4)
        session.close()


def test_a_micro_batch_that_would_mix_images_is_refused(exports):
    with pytest.raises(ValueError, match="micro_batch must be 1 for a dynamically quantized model, not 4"):
        Session(exports["int8"].path, Target(micro_batch=4))


def logits_in_child(path, inherited, results):
    try:
        if inherited is not None:
            inherited.logits(PIXELS)
        with_own = Session(path, Target(threads=2))
        results.put(with_own.logits(PIXELS))
    except ValueError as error:
        results.put(str(error))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_opens_its_own(exports, method):
    context = multiprocessing.get_context(method)
    session = Session(exports["int8"].path, Target(threads=2))
    expected = session.logits(PIXELS)
    results = context.Queue()
    child = context.Process(target=logits_in_child, args=(exports["int8"].path, None, results))
    child.start()
    np.testing.assert_allclose(results.get(timeout=60), expected, rtol=1e-5, atol=1e-5)
    child.join(timeout=60)
    assert child.exitcode == 0


def test_what_was_opened_before_a_fork_says_so_instead_of_hanging(exports):
    context = multiprocessing.get_context("fork")
    session = Session(exports["int8"].path, Target(threads=2))
    session.logits(PIXELS)
    results = context.Queue()
    child = context.Process(target=logits_in_child, args=(exports["int8"].path, session, results))
    child.start()
    assert "before this process was forked" in results.get(timeout=60)
    child.join(timeout=60)


def test_a_pickled_session_answers_the_same(exports, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(exports["int8"].path.read_bytes())
    monkeypatch.chdir(tmp_path)
    for source in (Path("model.onnx"), path.read_bytes()):
        with Session(source, Target(threads=1)) as session:
            pickled, expected = pickle.dumps(session), session.logits(PIXELS)
            assert (len(pickled) < 1000) == isinstance(source, Path)
        monkeypatch.chdir("/")
        with pickle.loads(pickled) as copy:
            assert copy.target == session.target
            np.testing.assert_array_equal(copy.logits(PIXELS), expected)
        monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the classifier is closed"):
        pickle.dumps(session)


def test_what_was_pickled_does_not_open_another_file(exports, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(exports["int8"].path.read_bytes())
    pickled = pickle.dumps(Session(path))
    path.write_bytes(exports["fp32"].path.read_bytes())
    with pytest.raises(ModelFormatError, match=r"model\.onnx: has SHA-256 \w{64}, not \w{64} as was demanded"):
        pickle.loads(pickled)


def test_a_demanded_checksum_decides_what_is_opened(exports):
    path = exports["int8"].path
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert Session(path, sha256=sha256.upper()).spec.precision == "int8"
    with pytest.raises(ModelFormatError, match=f"has SHA-256 {sha256}, not {'0' * 64} as was demanded"):
        Session(path, sha256="0" * 64)
