"""Pixels to the bit, and which images of a data set are read, held out and left out."""

import io
import json
import pickle
import shutil
import struct
import zipfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import LabelledImages, count_by_class, hold_out, read_split, take_evenly
from edgeresnet.decoding import MAX_PIXELS
from edgeresnet.errors import DataError, DataWarning, ImageError
from edgeresnet.images import to_pixels
from edgeresnet.spec import Accuracy, ImageInput, ModelSpec

SIZE = 32
GENERATOR = np.random.default_rng(0)
WIDE = GENERATOR.integers(0, 256, (45, 70, 3), dtype=np.uint8)


def fit(source, size=SIZE):
    """Pixels as a square of one size: the one place where these tests say how an image is fitted."""
    return to_pixels(source, size)


def triangle(length, size):
    """Weights of the bilinear filter with antialiasing: a triangle as wide as two pixels of the result, (size, length)."""
    scale = max(length / size, 1)
    centres = (np.arange(size) + 0.5) * length / size
    weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres[:, None]) / scale)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [16, 32, 60])
def test_resizing_is_bilinear_with_antialiasing(size):
    expected = np.einsum("yh,xw,hwc->yxc", triangle(45, size), triangle(70, size), WIDE.astype(float))
    assert np.abs(fit(WIDE, size) - expected).max() <= 1.01  # Pillow rounds after each direction
    np.testing.assert_array_equal(fit(WIDE, size), np.asarray(Image.fromarray(WIDE).resize((size, size), Image.Resampling.BILINEAR)))


def test_what_is_half_transparent_is_half_white():
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 200, 128
    np.testing.assert_allclose(fit(Image.fromarray(pixels, "RGBA"))[0, 0], [227, 127, 127], atol=1)


def test_sixteen_bits_of_grey_keep_their_high_byte():
    deep = np.full((SIZE, SIZE), 0xC312, np.uint16)
    assert (fit(Image.fromarray(deep)) == 0xC3).all()


def test_an_image_may_have_fifty_million_pixels():
    assert MAX_PIXELS == 50_000_000
    assert fit(Image.new("L", (10_000, 5_000), 77), 2)[0, 0].tolist() == [77] * 3


def test_larger_arrays_and_files_are_refused_by_their_pixels():
    with pytest.raises(ImageError, match="array: 5000 x 10001 pixels are more than the limit of 50,000,000"):
        fit(np.broadcast_to(np.uint8(0), (10_001, 5_000, 3)))
    stream = io.BytesIO()
    Image.new("1", (13_400, 13_400)).save(stream, "PNG")
    with pytest.raises(ImageError, match="limit of 50,000,000 pixels"):
        fit(stream.getvalue())


# --- data sets


def save(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (colour, 0, 0)).save(path)


def colours(data):
    return data.images[:, 0, 0, 0].tolist()


def test_images_are_found_in_any_depth_and_case_and_sorted_by_class_and_path(tmp_path):
    data = tmp_path / "letters"
    for i, name in enumerate(("b/1.png", "b/0.PNG", "a/deep/er/9.png", "a/z.png", "c/0.bmp")):
        save(data / "test" / name, 10 * i)
    (data / "test" / "a" / "notes.txt").write_text("no image")
    save(data / "train" / "a" / "0.png", 99)
    with pytest.warns(DataWarning, match=r"left out: 1 \.txt file\(s\) \(a/notes\.txt\)"):
        found = read_split(data, "test", size=SIZE)
    assert (found.classes, found.labels.tolist(), colours(found)) == (("a", "b", "c"), [0, 0, 1, 1, 2], [20, 30, 10, 0, 40])
    assert (found.name, read_split(data, "train", size=SIZE).name) == ("letters test set", "letters train set")
    assert found.labels.dtype == np.int64


def test_members_of_an_archive_are_those_below_the_split(tmp_path):
    """A file beside the class folders and a class that is called like the split are not of it."""
    for i, name in enumerate(
        ("deep/test/a/0.png", "deep/test/b/x/1.png", "deep/test/9.png", "deep/train/test/8.png", "deep/test/a/readme.md")
    ):
        save(tmp_path / "tree" / (name if name.endswith("png") else "x.png"), 10 * (i + 1))
        if not name.endswith("png"):
            shutil.move(tmp_path / "tree" / "x.png", tmp_path / "tree" / name)
    shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "tree")
    with pytest.warns(DataWarning, match=r"1 \.md file\(s\) \(deep/test/a/readme\.md\), 1 image\(s\) outside of train and test"):
        found = read_split(tmp_path / "data.zip", "test", size=SIZE)
    assert (found.classes, colours(found)) == (("a", "b"), [10, 20])


def test_the_archive_of_the_split_is_read_from_a_folder_of_archives(tmp_path):
    for split, colour in (("train", 50), ("test", 60)):
        with zipfile.ZipFile(tmp_path / f"{split}.zip", "w") as archive:
            stream = io.BytesIO()
            Image.new("RGB", (SIZE, SIZE), (colour, 0, 0)).save(stream, "PNG")
            archive.writestr(f"{split}/a/0.png", stream.getvalue())
    assert [colours(read_split(tmp_path, split, size=SIZE)) for split in ("train", "test")] == [[50], [60]]


@pytest.fixture
def batches(tmp_path):
    """torchvision's CIFAR-10 with 20 images a file, whose first red value says which image it is, classes unsorted."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i, name in enumerate(("test_batch", *(f"data_batch_{number}" for number in range(1, 6)))):
        pixels = np.zeros((20, 3, 32, 32), np.uint8)
        pixels[:, 0, 0, :2] = (40 * i + np.arange(20))[:, None]
        pixels[:, 1, :, 5] = 200  # a line from top to bottom
        labels = [(7 * number + i) % 10 for number in range(20)]
        (folder / name).write_bytes(pickle.dumps({b"data": pixels.reshape(20, -1), b"labels": labels}, protocol=2))
    return tmp_path


def test_torchvisions_training_split_has_five_files_in_their_order(batches):
    found = read_split(batches, "train", size=SIZE)
    assert colours(found) == [40 * i + number for i in range(1, 6) for number in range(20)]
    assert found.labels.tolist() == [(7 * number + i) % 10 for i in range(1, 6) for number in range(20)]
    assert (found.images[0, :, 5, 1] == 200).all()
    assert (found.name, found.classes) == ("CIFAR-10 train set", CIFAR10_LABELS)


class AsPython2(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as the published files have them."""

    dispatch = pickle._Pickler.dispatch | {bytes: lambda self, text: self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)}


def test_the_published_files_were_written_by_python_2(batches):
    pixels = np.arange(2 * 3072, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    stream = io.BytesIO()
    AsPython2(stream, protocol=2).dump({b"data": pixels, b"labels": [3, 1]})
    (batches / "cifar-10-batches-py" / "test_batch").write_bytes(stream.getvalue())
    found = read_split(batches, "test", size=SIZE)
    assert (found.labels.tolist(), found.labels.dtype) == ([3, 1], np.int64)
    np.testing.assert_array_equal(found.images.transpose(0, 3, 1, 2).reshape(2, -1), pixels)


@pytest.mark.parametrize(("content", "name"), [(b"cnumpy\nfromfile\n.", "numpy.fromfile"), (b"cos\ndtype\n.", "os.dtype")])
def test_a_pickle_may_import_arrays_of_numpy_and_no_more(batches, content, name):
    (batches / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=f"refused to load {name}"):
        read_split(batches, "test", size=SIZE)


def test_a_limit_beyond_the_images_takes_all_of_them(tmp_path):
    for i, name in enumerate(("a/0.png", "b/0.png", "b/1.png")):
        save(tmp_path / "test" / name, i)
    for limit in (3, 4, 100):
        assert colours(read_split(tmp_path, "test", size=SIZE, limit=limit)) == [0, 1, 2]


@pytest.mark.parametrize("limit", [10, 20, 37])
def test_a_limit_of_torchvisions_images_is_spread_over_the_classes(batches, limit):
    found = read_split(batches, "train", size=SIZE, limit=limit)
    assert len(found) == limit
    counts = count_by_class(found).values()
    assert max(counts) - min(counts) <= 1
    everything = read_split(batches, "train", size=SIZE)
    label = dict(zip(colours(everything), everything.labels.tolist(), strict=True))
    assert [label[colour] for colour in colours(found)] == found.labels.tolist()


def test_torchvisions_images_are_resized_where_another_size_is_wanted(batches):
    whole = read_split(batches, "test", size=SIZE)
    small = read_split(batches, "test", size=16)
    np.testing.assert_array_equal(small.images[7], fit(whole.images[7], 16))


def test_jpeg_is_called_a_copy_and_lossless_files_are_not(tmp_path):
    for suffix, name in ((".png", "CIFAR-10 test set, image files"), (".JPEG", "CIFAR-10 test set, JPEG copy")):
        for label in CIFAR10_LABELS:
            save(tmp_path / suffix / "test" / label / f"0{suffix}", 0)
        assert read_split(tmp_path / suffix, "test", size=SIZE).name == name


def labelled(labels):
    """Images that carry their own number."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=3)
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return LabelledImages(images=images, labels=labels.astype(np.int64), classes=classes, name="numbers")


LABELS = arrays(np.int64, st.integers(8, 120), elements=st.integers(0, 3)).filter(
    lambda labels: np.bincount(labels, minlength=4).min() >= 2
)


@given(LABELS, st.floats(0.01, 0.49))
def test_held_out_images_are_the_same_share_of_every_class(labels, fraction):
    data = labelled(labels)
    rest, held_out = hold_out(data, fraction)
    for label, count in Counter(labels.tolist()).items():
        assert (held_out.labels == label).sum() == max(1, round(fraction * count))
    numbers = [part.images.ravel()[::3].tolist() for part in (rest, held_out)]
    assert all(part == sorted(part) for part in numbers)
    assert sorted(numbers[0] + numbers[1]) == list(range(len(labels)))
    for part in (rest, held_out):
        np.testing.assert_array_equal(labels[part.images.ravel()[::3]], part.labels)
    np.testing.assert_array_equal(hold_out(data, fraction)[1].images, held_out.images)


def test_held_out_images_are_chosen_at_random():
    """The first or the last of a folder are often of one camera or one day."""
    _, held_out = hold_out(labelled(np.zeros(200, np.int64)), 0.25)
    numbers = held_out.images[:, 0, 0, 0].astype(int)
    assert 70 < numbers.mean() < 130
    assert np.histogram(numbers, 4, (0, 200))[0].min() >= 5


def test_the_choice_is_the_same_in_every_release():
    """Weights that a run begins with were trained on what an earlier release had left in."""
    _, held_out = hold_out(labelled(np.zeros(40, np.int64)), 0.1)
    expected = np.random.default_rng(0).permutation(np.arange(40))[:4]
    assert held_out.images[:, 0, 0, 0].tolist() == sorted(expected.tolist())


def test_a_class_of_which_nothing_would_be_left_is_an_error():
    with pytest.raises(DataError, match=r"class '1' has 2 image\(s\), too few to hold out 80% for validation"):
        hold_out(labelled(np.array([0] * 9 + [1] * 2)), 0.8)


@given(LABELS, st.integers(1, 130))
def test_a_limit_is_spread_in_proportion_to_the_classes(labels, limit):
    data = labelled(labels)
    found = take_evenly(data, limit)
    assert len(found) == min(limit, len(labels))
    numbers = found.images.ravel()[::3]
    assert len(set(numbers.tolist())) == len(found)
    np.testing.assert_array_equal(labels[numbers], found.labels)
    for label, count in Counter(labels.tolist()).items():
        members = numbers[found.labels == label].tolist()
        assert members == sorted(members)
        assert abs((found.labels == label).sum() - len(found) * count / len(labels)) < 1
    assert take_evenly(data, None) is data


# --- metadata


def describe(**changes):
    """A description of any file."""
    usual = {"labels": ("a", "b"), "input": ImageInput.of(24), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    names = {"architecture": "resnet18-cifar", "precision": "int8", "checkpoint_sha256": "00ff"}
    return ModelSpec(**usual | names | changes)


NUMBERS = st.floats(-10, 10)
ACCURACIES = st.builds(Accuracy, top1=st.floats(0, 1), count=st.integers(0, 10**9), data=st.text())


@given(
    labels=st.lists(st.text(), min_size=1, max_size=4).map(tuple),
    mean=st.tuples(NUMBERS, NUMBERS, NUMBERS),
    std=st.tuples(NUMBERS, NUMBERS, NUMBERS),
    architecture=st.text(),
    accuracy=st.none() | ACCURACIES,
    versions=st.dictionaries(st.text(), st.text(), max_size=3),
)
def test_a_description_is_read_as_it_was_written(**fields):
    spec = describe(**fields)
    metadata = spec.to_metadata()
    assert all(isinstance(text, str) for text in metadata.values())
    assert ModelSpec.from_metadata(metadata) == spec
    assert ModelSpec.from_metadata(dict(reversed(metadata.items())) | {"other.labels": "[]"}) == spec


def test_programs_in_other_languages_find_every_entry_under_its_name():
    metadata = describe(accuracy=Accuracy(top1=0.5, count=3, data="toys")).to_metadata()
    assert json.loads(metadata["edgeresnet.mean"]) == [0.1, 0.2, 0.3]
    assert json.loads(metadata["edgeresnet.std"]) == [0.4, 0.5, 0.6]
    assert metadata["edgeresnet.layout"] == "uint8 NHWC RGB"
    assert (metadata["edgeresnet.checkpoint_sha256"], metadata["edgeresnet.architecture"]) == ("00ff", "resnet18-cifar")
    assert str(Accuracy(top1=0.91803, count=12_345, data="toys")) == "91.80% top-1 on 12,345 images (toys)"


def test_the_next_format_is_refused():
    metadata = describe().to_metadata()
    version = int(metadata["edgeresnet.format_version"])
    with pytest.raises(ValueError, match=f"metadata format {version + 1}, this release reads up to {version}"):
        ModelSpec.from_metadata(metadata | {"edgeresnet.format_version": str(version + 1)})
