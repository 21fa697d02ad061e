from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from edgeresnet import Classifier, Prediction
from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.errors import ImageError
from edgeresnet.evaluation import synthetic_images

PIXELS = synthetic_images(32, 40)


@pytest.fixture(params=["fp32", "int8"])
def classifier(request, exports):
    with Classifier(exports[request.param].path, threads=2) as made:
        yield made


def test_a_prediction_does_not_depend_on_its_neighbours(classifier):
    together = classifier.logits(PIXELS)
    alone = np.concatenate([classifier.logits(PIXELS[i : i + 1]) for i in range(len(PIXELS))])
    backwards = classifier.logits(PIXELS[::-1])[::-1]
    np.testing.assert_allclose(alone, together, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(backwards, together, rtol=1e-5, atol=1e-5)


def test_one_classifier_serves_many_threads(classifier):
    expected = classifier.logits(PIXELS)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: classifier.logits(PIXELS[i : i + 1])[0], range(len(PIXELS))))
    np.testing.assert_allclose(np.stack(results), expected, rtol=1e-5, atol=1e-5)


def test_predictions_follow_from_the_logits(classifier):
    logits = classifier.logits(PIXELS[:3]).astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for prediction, row in zip(classifier.predict_batch(PIXELS[:3]), expected, strict=True):
        np.testing.assert_allclose(prediction.probabilities, row, atol=1e-6)
        assert prediction.index == row.argmax()
        assert prediction.label == CIFAR10_LABELS[row.argmax()]
        assert prediction.score == pytest.approx(row.max(), abs=1e-6)
        assert [label for label, _ in prediction.top(3)] == [CIFAR10_LABELS[i] for i in np.argsort(-row)[:3]]
        assert len(prediction.top(99)) == 10


def test_images_of_any_size_and_kind_are_classified(classifier, tmp_path):
    photo = Image.fromarray(PIXELS[0]).resize((301, 200))
    photo.save(tmp_path / "photo.png")
    path, content, image, array = classifier.predict_batch(
        [tmp_path / "photo.png", (tmp_path / "photo.png").read_bytes(), photo, np.asarray(photo)]
    )
    for other in (content, image, array):
        np.testing.assert_array_equal(other.logits, path.logits)
    assert classifier.predict_batch([]) == []


def test_a_bad_image_in_a_batch_is_named(classifier):
    with pytest.raises(ImageError, match=r"image 1: .*NoneType"):
        classifier.predict_batch([PIXELS[0], None])


def test_it_describes_itself(classifier):
    classifier.warmup()
    assert classifier.labels == CIFAR10_LABELS
    assert classifier.provider == "CPUExecutionProvider"
    assert repr(classifier) == f"Classifier(resnet18-cifar {classifier.spec.precision}, 10 classes, CPUExecutionProvider)"


def test_a_prediction_reads_well_and_stays_finite_at_large_logits():
    prediction = Prediction(("a", "b"), np.array([1000.0, 0.0], np.float32))
    assert repr(prediction) == "Prediction(label='a', score=1.0000)"
    with pytest.raises(ValueError, match="at least 1"):
        prediction.top(0)
