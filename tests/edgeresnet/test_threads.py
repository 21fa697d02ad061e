"""What ONNX Runtime gets of a target: threads, streams, batches, and the settings of providers that are not at hand."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from edgeresnet import Classifier, session
from edgeresnet.errors import ModelFormatError, ProviderError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.providers import ALL, Settings, load_onnxruntime, open_model, session_options
from edgeresnet.session import Session
from edgeresnet.spec import ImageInput
from edgeresnet.target import Target

SIZE = 32
PIXELS = synthetic_images(SIZE, 5)


def threads_of(opened):
    options = opened.get_session_options()
    return options.intra_op_num_threads, options.inter_op_num_threads


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnx_runtime_gets_the_threads_that_were_asked_for(exports, precision, threads):
    opened = Session(exports[precision].path, Target(threads=threads))
    assert threads_of(opened._session) == (threads, 1)
    with Classifier(exports[precision].path, threads=threads) as classifier:
        assert classifier.session.target == Target(threads=threads)
        assert threads_of(classifier.session._session) == (threads, 1)


def test_a_session_is_quiet_and_does_not_spin_between_runs():
    options = session_options(2)
    assert options.log_severity_level == 4
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


@pytest.mark.parametrize(
    ("precision", "target", "streams", "threads"),
    [
        ("int8", Target(threads=4), 4, 1),
        ("int8", Target(threads=4, streams=2), 2, 2),
        ("fp32", Target(threads=5, streams=2, micro_batch=1), 2, 2),
        ("int8", Target(threads=4, streams=1), None, 4),
        ("fp32", Target(threads=4, micro_batch=1), None, 4),
    ],
)
def test_streams_share_the_threads(exports, precision, target, streams, threads):
    with Classifier(exports[precision].path, target=target) as classifier:
        classifier.logits(PIXELS)
        opened = classifier.session
        if streams is None:
            assert opened._streams is None
            assert threads_of(opened._session)[0] == threads
        else:
            assert opened._streams._pool._max_workers == streams
            assert threads_of(opened._streams._session)[0] == threads


@pytest.mark.parametrize(
    ("precision", "micro_batch", "counts"),
    [
        ("fp32", None, [32, 8]),
        ("fp32", 7, [7, 7, 7, 7, 7, 5]),
        ("int8", None, [1] * 40),
        ("int8-stock", None, [1] * 40),
        ("int8-static", 20, [20, 20]),
    ],
)
def test_images_are_run_so_many_at_a_time(exports, monkeypatch, precision, micro_batch, counts):
    seen, run = [], session._run
    monkeypatch.setattr(session, "_run", lambda opened, pixels, fixed: seen.append(len(pixels)) or run(opened, pixels, fixed))
    logits = Session(exports[precision].path, Target(threads=1, streams=1, micro_batch=micro_batch)).logits(synthetic_images(SIZE, 40))
    assert (seen, logits.shape) == (counts, (40, 10))


@pytest.mark.parametrize(
    ("provider", "target", "size", "fixed", "count"),
    [
        ("cpu", Target(), 32, None, 32),
        ("cpu", Target(), 64, None, 32),
        ("cpu", Target(), 128, None, 8),
        ("cpu", Target(), 512, None, 1),
        ("cuda", Target(), 32, None, 256),
        ("cuda", Target(micro_batch=9), 128, None, 9),
        ("cuda", Target(), 32, 4, 4),
        ("cpu", Target(micro_batch=4), 32, 4, 4),
    ],
)
def test_a_gpu_is_given_more_at_a_time_and_of_large_images_fewer(exports, provider, target, size, fixed, count):
    spec = dataclasses.replace(exports["fp32"].spec, input=ImageInput.of(size))
    assert session._choose_micro_batch(target, spec, ALL[provider], fixed) == count


def test_a_model_of_a_fixed_batch_takes_no_other(exports):
    with pytest.raises(ValueError, match="micro_batch must be 4, the number of images that the model takes, not 3"):
        session._choose_micro_batch(Target(micro_batch=3), exports["fp32"].spec, ALL["cpu"], 4)


def test_warming_up_runs_every_batch_size_as_often_as_asked_for(exports, monkeypatch):
    seen = []
    with Classifier(exports["fp32"].path, threads=1) as classifier:
        monkeypatch.setattr(Classifier, "logits", lambda self, pixels: seen.append((len(pixels), pixels.shape[1:], pixels.any())))
        classifier.warmup()
        classifier.warmup(2, batch_sizes=(1, 4))
    shape = (SIZE, SIZE, 3)
    assert seen == [(1, shape, False)] * 3 + [(1, shape, False)] * 2 + [(4, shape, False)] * 2


def test_prepared_images_arrive_as_they_are(exports, monkeypatch):
    seen = []
    with Classifier(exports["fp32"].path, threads=1) as classifier:
        monkeypatch.setattr(Classifier, "logits", lambda self, pixels: seen.append(pixels) or np.zeros((len(pixels), 10), np.float32))
        classifier.predict_batch(list(PIXELS))
    np.testing.assert_array_equal(seen[0], PIXELS)


def test_closing_ends_the_streams(exports):
    opened = Session(exports["int8"].path, Target(threads=2))
    opened.logits(PIXELS)
    pool = opened._streams._pool
    opened.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(print)


def test_tensors_in_other_files_are_refused(exports, tmp_path):
    onnx.save(onnx.load(exports["fp32"].path), tmp_path / "split.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ModelFormatError, match=r"split\.onnx: keeps its tensors in other files; fix: export it as one file"):
        Session(tmp_path / "split.onnx")


@pytest.mark.parametrize("change", ["input name", "input type", "output name", "classes"])
def test_a_signature_that_the_metadata_does_not_promise_is_refused(exports, change):
    model = onnx.load(exports["fp32"].path)
    graph = model.graph
    if change == "input name":
        for node in graph.node:
            node.input[:] = ["pictures" if name == "images" else name for name in node.input]
        graph.input[0].name = "pictures"
    elif change == "input type":
        for node in graph.node:
            node.input[:] = ["bytes" if name == "images" else name for name in node.input]
        graph.node.insert(0, onnx.helper.make_node("Cast", ["images"], ["bytes"], to=onnx.TensorProto.UINT8))
        graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT8
    elif change == "output name":
        graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["scores"]))
        graph.output[0].name = "scores"
    else:
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        metadata["edgeresnet.labels"] = json.dumps(json.loads(metadata["edgeresnet.labels"])[:9])
        onnx.helper.set_model_props(model, metadata)
    with pytest.raises(ModelFormatError, match="not those that its metadata promises"):
        Session(model.SerializeToString())


# --- providers that are not at hand: what they would get


class FakeSession:
    """As much of ONNX Runtime's session as is asked before it runs."""

    def get_providers(self):
        return ["CUDAExecutionProvider"]

    def get_provider_graph_assignment_info(self):
        return []

    def run(self, *arguments):
        return None


@pytest.fixture
def creations(monkeypatch):
    """What ONNX Runtime's session is made with, instead of a session."""
    made = []

    def create(content, options=None, **named):
        made.append((options, named))
        return FakeSession()

    monkeypatch.setattr(load_onnxruntime(), "InferenceSession", create)
    return made


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"use_tf32": "1"}),
        ({"exact": True}, {"use_tf32": "0"}),
        ({"options": {"device_id": "2", "gpu_mem_limit": "3000"}}, {"use_tf32": "1", "device_id": "2", "gpu_mem_limit": "3000"}),
        ({"options": {"use_tf32": "0"}}, {"use_tf32": "0"}),
    ],
)
def test_cuda_gets_its_settings(creations, monkeypatch, settings, expected):
    started = []
    monkeypatch.setattr("edgeresnet.providers.cuda._start", started.append)
    taken = open_model(b"", "cuda", Settings(threads=3, **settings), "fp16")
    assert (taken.opened.provider, taken.provider) == ("CUDAExecutionProvider", ALL["cuda"])
    ((options, named),) = creations
    assert named["providers"] == [("CUDAExecutionProvider", expected)]
    assert named["enable_fallback"] == 0
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert started == [tuple(sorted(settings.get("options", {}).items()))]


@pytest.mark.parametrize("precision", ["int8", "int8-stock"])
def test_dynamic_int8_is_refused_on_cuda_unless_insisted_on(creations, monkeypatch, precision):
    monkeypatch.setattr("edgeresnet.providers.cuda._start", lambda options: None)
    with pytest.raises(ProviderError, match=rf"no kernels for the integer operators of this {precision} model.*--precision fp16.*--force"):
        open_model(b"", "cuda", Settings(), precision)
    assert not creations
    open_model(b"", "cuda", Settings(force=True), precision)
    assert len(creations) == 1


@pytest.mark.parametrize(("exact", "hint"), [(False, None), (True, "f32")])
def test_openvino_gets_its_settings(creations, monkeypatch, exact, hint):
    given = []
    monkeypatch.setattr(ALL["openvino"], "_load", lambda: "the device")
    options = SimpleNamespace(
        add_provider_for_devices=lambda devices, settings: given.append((devices, json.loads(settings["load_config"])["CPU"]))
    )
    monkeypatch.setattr("edgeresnet.providers.openvino.open_whole", lambda provider, create, settings: create(options))
    ALL["openvino"].open(b"", Settings(threads=3, exact=exact), "fp32")
    expected = {"INFERENCE_NUM_THREADS": "3"} | ({"INFERENCE_PRECISION_HINT": hint} if hint else {})
    assert given == [(["the device"], expected)]
    assert creations[0][1] == {"enable_fallback": 0}


def test_auto_takes_the_first_provider_that_takes_the_model(creations, monkeypatch):
    monkeypatch.setattr("edgeresnet.providers.cuda._start", lambda options: None)
    taken = open_model(b"", "auto", Settings(), "fp16")
    assert (taken.opened.provider, taken.passed_over) == ("CUDAExecutionProvider", ())


def test_openvino_says_in_what_it_computes(monkeypatch):
    for capabilities, phrase in (("FP32 BF16 INT8", "FP32 layers run in bfloat16 on this processor"), ("FP32 INT8", None)):
        device = SimpleNamespace(ep_metadata={"OPTIMIZATION_CAPABILITIES": capabilities})
        monkeypatch.setattr(ALL["openvino"], "_load", lambda device=device: device)
        assert ALL["openvino"].arithmetic(Settings()) == phrase
        assert ALL["openvino"].arithmetic(Settings(exact=True)) is None


def test_buffers_are_made_where_the_model_runs(exports, monkeypatch):
    made = []
    monkeypatch.setattr(session, "BoundBatch", lambda *positional, **named: made.append(named))
    opened = Session(exports["fp32"].path, Target(threads=1))
    opened.bind(2)
    for options in ({"device_id": "3", "enable_cuda_graph": "1"}, {"device_id": "3"}):
        opened.memory = ALL["cuda"].memory(Settings(options=options))
        opened.bind(5)
    assert [(named["device"], named["device_id"], named["shape"], named["classes"], named["graph_id"]) for named in made] == [
        ("cpu", 0, (2, SIZE, SIZE, 3), 10, None),
        ("cuda", 3, (5, SIZE, SIZE, 3), 10, 5),
        ("cuda", 3, (5, SIZE, SIZE, 3), 10, None),
    ]
    assert {named["output"] for named in made} == {"logits"}


def test_the_least_sensible_settings_are_accepted():
    target = Target(threads=1, streams=1, micro_batch=1)
    assert (target.cores, Target(threads=3, streams=3).streams) == (1, 3)
