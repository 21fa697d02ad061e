import numpy as np
import pytest

from edgeresnet.datasets import LabelledImages
from edgeresnet.errors import DataError
from edgeresnet.evaluation import BATCH, collect_logits, compare_logits, match_classes, synthetic_images, top1

SIZE = 8


class Spy:
    """Answers with the mean colours, and remembers how many images it got at a time."""

    def __init__(self):
        self.counts = []

    def logits(self, pixels):
        self.counts.append(len(pixels))
        return pixels.mean((1, 2), dtype=np.float32)


def test_the_figures_of_a_comparison_are_those_of_plain_arithmetic():
    original = np.float32([[1, 0, 3], [4, -2, 0], [0, 5, 1], [1, 2, 2.5]])
    logits = np.float32([[1, 0, 2], [-3, -2, 0], [0, 5, 1], [1, 3, 2.5]])
    parity = compare_logits(original, logits)
    signal = (1 + 9 + 16 + 4 + 25 + 1 + 1 + 4 + 6.25) / 12
    noise = (1 + 49 + 1) / 12
    assert parity.count == 4
    assert parity.largest_difference == 7
    assert parity.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    assert parity.agreement == 0.5


def test_the_original_decides_what_is_signal():
    loud, quiet = np.float32([[8, 0]]), np.float32([[2, 0]])
    assert compare_logits(loud, quiet).sqnr_db == pytest.approx(10 * np.log10(64 / 36))
    assert compare_logits(quiet, loud).sqnr_db == pytest.approx(10 * np.log10(4 / 36))


def test_equal_logits_are_infinitely_close():
    logits = np.float32([[1, 2], [4, 3]])
    parity = compare_logits(logits, logits.copy())
    assert (parity.largest_difference, parity.sqnr_db, parity.agreement) == (0, np.inf, 1)


def test_top1_is_the_share_of_images_whose_highest_logit_is_right():
    logits = np.float32([[3, 1, 2], [1, 2, 3], [1, 3, 2], [-1, -3, -2]])
    assert top1(logits, np.array([0, 2, 1, 1])) == 0.75


@pytest.mark.parametrize(("count", "batch_size", "counts"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (2, 5, [2])])
def test_logits_are_collected_in_batches_of_the_size_asked_for(count, batch_size, counts):
    spy, images = Spy(), synthetic_images(SIZE, count)
    seen = []

    def track(steps, description, total=None):
        seen.append((len(steps), description))
        return steps

    logits = collect_logits(spy, images, "looking", track, batch_size=batch_size)
    np.testing.assert_array_equal(logits, images.mean((1, 2), dtype=np.float32))
    assert spy.counts == counts
    assert seen == [(len(counts), "looking")]


def test_the_usual_batch_is_128_images():
    spy = Spy()
    collect_logits(spy, synthetic_images(SIZE, 130), "")
    assert (spy.counts, BATCH) == ([128, 2], 128)


def test_classes_must_be_the_models_and_are_put_in_its_order():
    names = tuple("abcdef")
    data = LabelledImages(images=synthetic_images(SIZE, 6), labels=np.arange(6), classes=names, name="letters")
    assert match_classes(data, names) is data
    ordered = match_classes(data, tuple("cabfed"))
    assert (ordered.classes, ordered.labels.tolist()) == (tuple("cabfed"), [1, 2, 0, 5, 4, 3])
    assert ordered.images is data.images
    with pytest.raises(DataError, match=r"^the data's 6 classes \(a, b, c, d, \.\.\.\) are not the model's 6 \(b, a, c, d, \.\.\.\)$"):
        match_classes(data, ("b", "a", "c", "d", "e", "g"))
    for labels, told in (("abcd", r"4 \(a, b, c, d\)"), ("abcde", r"5 \(a, b, c, d, \.\.\.\)")):
        with pytest.raises(DataError, match=f"the model's {told}$"):
            match_classes(data, tuple(labels))


def test_synthetic_images_are_fixed_by_their_seed_and_differ_otherwise():
    images = synthetic_images(SIZE, 5, seed=3)
    assert (images.dtype, images.shape) == (np.uint8, (5, SIZE, SIZE, 3))
    np.testing.assert_array_equal(images, synthetic_images(SIZE, 5, seed=3))
    assert (images != synthetic_images(SIZE, 5, seed=4)).mean() > 0.9
    assert len({image.tobytes() for image in images}) == 5
    assert len(synthetic_images(SIZE)) == 64


def test_synthetic_images_have_colours_and_shapes_of_several_scales():
    """Neither one colour nor noise: neighbours are alike, and distant pixels are not."""
    images = synthetic_images(32, 200).astype(float)
    near = np.abs(np.diff(images, axis=2)).mean()
    far = np.abs(images[:, :, 16:] - images[:, :, :16]).mean()
    assert far > 4 * near > 4
    assert images.mean((1, 2)).std(0).min() > 30
    assert 90 < images.mean() < 160
