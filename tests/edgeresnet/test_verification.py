import json
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from benchmarks.studies.emulation import emulated_python, run_emulated
from edgeresnet import Classifier
from edgeresnet.errors import ModelFormatError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.modelfile import parse_model
from edgeresnet.session import Session
from edgeresnet.spec import PRECISIONS, ImageInput, ModelSpec
from edgeresnet.verification import GOLDEN_KEY, GoldenAnswers, closeness_db, verify
from exporters.golden import LEAST_DB, MAX_BYTES, take_answers
from exporters.metadata import seal


def changed(path, target, change):
    """A copy of a model file that ``change`` has worked on."""
    model = onnx.load(path)
    change(model)
    target.write_bytes(model.SerializeToString(deterministic=True))
    return target


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_machine_that_made_a_file_answers_as_it_did(exports, precision):
    path = exports[precision].path
    with Classifier(path) as classifier:
        result = classifier.verify()
        golden = GoldenAnswers.from_metadata(classifier.session.read_file().metadata)
        expected = classifier.logits(golden.images)
    assert result.holds
    assert (result.intact, result.count, result.agreement, result.closeness_db) == (True, 4, 1.0, np.inf)
    assert 0 < result.least_db <= LEAST_DB[precision]
    assert np.array_equal(golden.logits, expected)
    assert np.array_equal(golden.images, synthetic_images(32, 4, seed=17))
    assert golden.to_metadata()[GOLDEN_KEY] == parse_model(path.read_bytes()).metadata[GOLDEN_KEY]
    assert len(golden.to_metadata()[GOLDEN_KEY]) < MAX_BYTES


def test_one_changed_byte_of_a_weight_is_noticed_though_no_answer_shows_it(exports, tmp_path):
    def flip(model):
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]

    result = verify(Session(changed(exports["fp32"].path, tmp_path / "m.onnx", flip)))
    assert (result.intact, result.answers_hold, result.holds) == (False, True, False)


def test_another_description_is_noticed(exports, tmp_path):
    def relabel(model):
        (entry,) = [entry for entry in model.metadata_props if entry.key == "edgeresnet.filter"]
        entry.value = "nearest"

    result = verify(Session(changed(exports["int8"].path, tmp_path / "m.onnx", relabel)))
    assert (result.intact, result.answers_hold, result.holds) == (False, True, False)


def test_another_normalization_is_noticed_by_the_answers(exports, tmp_path):
    def shift(model):
        mean = next(tensor for tensor in model.graph.initializer if tensor.dims == [3, 1, 1])
        mean.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(mean) * np.float32(0.9), mean.name))

    result = verify(Session(changed(exports["fp32"].path, tmp_path / "m.onnx", shift)))
    assert (result.intact, result.answers_hold) == (False, False)
    assert result.largest_difference > 0.01


def test_an_untouched_file_that_was_written_again_is_intact(exports, tmp_path):
    assert verify(Session(changed(exports["int8"].path, tmp_path / "m.onnx", lambda model: None))).holds


def test_a_file_that_was_replaced_after_it_was_opened_is_noticed(exports, tmp_path):
    path = tmp_path / "m.onnx"
    shutil.copy(exports["fp32"].path, path)
    with Classifier(path) as classifier:
        shutil.copy(exports["int8-stock"].path, path)
        assert not classifier.verify().holds


def test_a_file_without_answers_or_with_broken_ones_is_an_error(exports, tmp_path):
    def set_golden(text):
        def change(model):
            kept = [entry for entry in model.metadata_props if entry.key != GOLDEN_KEY]
            del model.metadata_props[:]
            model.metadata_props.extend(kept)
            if text is not None:
                model.metadata_props.add(key=GOLDEN_KEY, value=text)

        return change

    whole = json.loads(parse_model(exports["int8"].path.read_bytes()).metadata[GOLDEN_KEY])
    broken = {
        None: "carries no answers",
        "{": "broken",
        "[" * 100_000: "broken",
        json.dumps(whole | {"images": []}): "broken",
        json.dumps(whole | {"images": ["AAAA"]}): "broken",
        json.dumps(whole | {"logits": whole["logits"][:-8]}): "broken",
        json.dumps(whole | {"logits": whole["logits"][:128]}): "answers of the shape",
    }
    for text, message in broken.items():
        session = Session(changed(exports["int8"].path, tmp_path / "m.onnx", set_golden(text)))
        with pytest.raises(ModelFormatError, match=message):
            verify(session)
        session.close()


def test_closeness_is_that_of_the_worst_image_whatever_all_logits_have_in_common():
    right = np.array([[1.0, -1.0], [101.0, 99.0]], np.float32)
    assert closeness_db(right, right) == np.inf
    assert closeness_db(right, right + 7) == np.inf
    off = right + np.array([[0.01, -0.01], [0.1, -0.1]], np.float32)
    assert closeness_db(right, off) == pytest.approx(20, abs=0.01)
    assert not closeness_db(right, np.where(right > 100, np.float32("nan"), right)) >= 0


def test_a_network_of_many_classes_carries_fewer_images():
    classes = 8_000
    graph = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        many (uint8[n, 8, 8, 3] images) => (float[n, {classes}] logits)
        <float[1, {classes}] weights = {{{", ".join(str(i % 97) for i in range(classes))}}}> {{
            pixels = Cast <to = 1> (images)
            mean = ReduceMean <keepdims = 0> (pixels, axes)
            column = Unsqueeze (mean, one)
            logits = MatMul (column, weights)
        }}""".replace("> {", "> {\n axes = Constant <value_ints = [1, 2, 3]> ()\n one = Constant <value_ints = [1]> ()\n")
    )
    spec = ModelSpec(
        labels=tuple(map(str, range(classes))),
        input=ImageInput.of(8),
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        architecture="many",
        precision="fp32",
        checkpoint_sha256="",
    )
    content = seal(graph, spec)
    assert len(GoldenAnswers.from_metadata(parse_model(content).metadata).images) == 2
    assert verify(Session(content)).holds
    assert len(take_answers(content, spec).to_metadata()[GOLDEN_KEY]) <= MAX_BYTES


def test_the_command_says_what_holds_and_fails_where_it_does_not(exports, tmp_path, run_cli):
    done = run_cli("verify", exports["int8"].path, "--threads", 1)
    assert (done.status, done.err) == (0, "")
    assert "the maker's answers to 4 image(s), bit for bit" in done.out
    assert "CPUExecutionProvider, 1 thread(s)" in done.out
    found = json.loads(run_cli("verify", exports["int8"].path, "--format", "json").out)
    assert (found["schema"], found["holds"], found["intact"], found["agreement"]) == ("edgeresnet.verification/1", True, True, 1.0)

    def silence(model):
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT8:
                tensor.raw_data = bytes(len(tensor.raw_data))

    done = run_cli("verify", changed(exports["int8"].path, tmp_path / "m.onnx", silence))
    assert done.status == 1
    assert "is not what its maker wrote" in done.err
    assert "this machine answers differently" in done.err


@pytest.mark.skipif(shutil.which("qemu-x86_64-static") is None, reason="qemu-user-static is not installed")
class TestOtherProcessors:
    """Under emulation: the kernels that ONNX Runtime chooses there are the real ones."""

    def verify(self, path):
        command = [*emulated_python("AVX2 without VNNI"), "-m", "edgeresnet", "verify", str(path), "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def test_int8_holds_without_vnni(self, exports):
        status, text = self.verify(exports["int8"].path)
        assert status == 0, text

    def test_int8_holds_on_arm(self, exports):
        if shutil.which("qemu-aarch64-static") is None:
            pytest.skip("qemu-aarch64-static is not installed")
        golden = GoldenAnswers.from_metadata(parse_model(exports["int8"].path.read_bytes()).metadata)
        for core in ("Cortex-A72, no dot product", "Cortex-A76, dot product"):
            assert closeness_db(golden.logits, run_emulated(exports["int8"].path, golden.images, core)) >= golden.least_db

    def test_a_file_that_saturates_there_does_not_hold(self, exports, tmp_path):
        class Images(CalibrationDataReader):
            def __init__(self):
                self.left = iter(synthetic_images(32, 16, seed=3))

            def get_next(self):
                image = next(self.left, None)
                return None if image is None else {"images": image[None]}

        stock = tmp_path / "stock-static.onnx"
        quantize_static(
            exports["fp32"].path, stock, Images(), quant_format=QuantFormat.QDQ, per_channel=True, op_types_to_quantize=["Conv", "Add"]
        )
        spec = ModelSpec.from_metadata(parse_model(exports["int8-static"].path.read_bytes()).metadata)
        stock.write_bytes(seal(onnx.load(stock), spec))
        assert verify(Session(stock)).holds
        status, text = self.verify(stock)
        assert status == 1
        assert "this machine answers differently" in text
