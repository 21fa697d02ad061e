"""What `edgeresnet/README.md` promises of the runtime: a test for each, named after it.

Where a promise has long tests of its own, the one here is its shortest form: ``test_long_run``, ``test_hostile_images``, ``test_files``,
``test_attacks`` and ``test_versions`` go further.
"""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeresnet import Classifier, EdgeResNetError, ImageError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.spec import DEFAULT_PRECISIONS, FORMAT_VERSION

ROOT = Path(__file__).parent.parent
PIXELS = synthetic_images(32, 9, seed=4)

IN_ANOTHER_PROCESS = """
import sys
import numpy as np
from edgeresnet import Classifier
from edgeresnet.evaluation import synthetic_images
with Classifier(sys.argv[1], threads=2) as classifier:
    sys.stdout.buffer.write(classifier.logits(synthetic_images(32, 9, seed=4)).tobytes())
"""


@pytest.fixture(params=DEFAULT_PRECISIONS)
def path(request, exports):
    return exports[request.param].path


def test_threads_share_a_classifier_and_get_equal_answers(path):
    with Classifier(path, threads=2) as classifier, ThreadPoolExecutor(4) as pool:
        expected = classifier.logits(PIXELS).tobytes()
        assert {answer.tobytes() for answer in pool.map(classifier.logits, [PIXELS] * 12)} == {expected}


def test_a_prediction_does_not_depend_on_its_batch(path):
    """Up to rounding: FP32 products are added in another order in another batch."""
    with Classifier(path, threads=2) as classifier:
        together = classifier.logits(PIXELS)
        for rows in ([0], [3, 1], [8, 0, 4, 2]):
            np.testing.assert_allclose(classifier.logits(PIXELS[rows]), together[rows], rtol=1e-5, atol=1e-5)


def test_the_same_machine_gives_the_same_answer_bit_by_bit_in_every_run(path):
    """With the same file, version of ONNX Runtime and number of threads, and the image in the same batch."""
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, path]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    runs = [subprocess.run(command, env=environment, capture_output=True, check=True).stdout for _ in range(2)]
    with Classifier(path, threads=2) as classifier:
        assert runs == [classifier.logits(PIXELS).tobytes()] * 2


def test_another_number_of_threads_changes_no_class(path):
    answers = []
    for threads in (1, 2):
        with Classifier(path, threads=threads) as classifier:
            answers.append(classifier.logits(PIXELS))
    assert (answers[0].argmax(1) == answers[1].argmax(1)).all()
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-3, atol=1e-3)


def test_an_image_gives_a_prediction_or_an_image_error(path, tmp_path):
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    with Classifier(path) as classifier:
        for image in (tmp_path / "half.jpg", tmp_path / "none.jpg", tmp_path, b"", b"GIF89a", None, 7, PIXELS[0][..., 0]):
            with pytest.raises(ImageError):
                classifier.predict(image)
        assert classifier.predict(PIXELS[0]).label in classifier.labels


def test_every_deliberate_error_is_an_edgeresnet_error_with_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"junk\njunk")
    for arguments in ({"model": tmp_path / "none.onnx"}, {"model": tmp_path / "model.onnx"}, {"provider": "tpu"}):
        with pytest.raises(EdgeResNetError) as failed:
            Classifier(**arguments)
        assert "\n" not in str(failed.value)


def test_a_file_of_this_format_version_is_read_and_a_newer_one_says_so(exports, tmp_path):
    model = onnx.load(exports["fp32"].path)
    for version, is_read in ((FORMAT_VERSION, True), (FORMAT_VERSION + 1, False)):
        next(entry for entry in model.metadata_props if entry.key == "edgeresnet.format_version").value = str(version)
        onnx.save(model, tmp_path / "model.onnx")
        if is_read:
            Classifier(tmp_path / "model.onnx").close()
        else:
            with pytest.raises(
                EdgeResNetError, match=f"format {version}, this release reads up to {FORMAT_VERSION}; fix: upgrade edgeresnet"
            ):
                Classifier(tmp_path / "model.onnx")


def test_a_demanded_checksum_is_that_of_the_file_that_runs(path):
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with Classifier(path, sha256=sha256) as classifier:
        assert classifier.session.size_bytes == path.stat().st_size
    with pytest.raises(EdgeResNetError, match=f"has SHA-256 {sha256}"):
        Classifier(path, sha256="f" * 64)


NETWORKED = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was used")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from edgeresnet.cli import main
main(["predict", sys.argv[1], "--format", "json"])
"""


def test_nothing_uses_the_network_or_leaves_a_trace_unasked(image_folder, tmp_path):
    """ONNX Runtime would put an identifier and a queue of reports under the home folder."""
    plain = {key: value for key, value in os.environ.items() if key not in ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")}
    environment = plain | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", NETWORKED, str(image_folder / "test")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 16
    assert not list(tmp_path.iterdir())
