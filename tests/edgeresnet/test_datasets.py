import pickle
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.datasets import MissingSplitError, count_by_class, hold_out, read_split
from edgeresnet.errors import DataError


@pytest.mark.parametrize("kind", ["folder", "tar", "xztar", "gztar", "zip", "split archives"])
def test_every_layout_gives_the_same_images(image_folder, tmp_path, kind):
    expected = read_split(image_folder, "test", size=16)
    if kind == "folder":
        data = image_folder
    elif kind == "split archives":
        data = tmp_path
        for split in ("train", "test"):
            with tarfile.open(tmp_path / f"{split}.tar.xz", "w:xz") as archive:
                archive.add(image_folder / split, split)
    else:
        data = tmp_path / shutil.make_archive(str(tmp_path / "data"), kind, image_folder)
    found = read_split(data, "test", size=16)
    assert found.classes == ("green", "red")
    assert count_by_class(found) == {"green": 8, "red": 8}
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.labels, expected.labels)
    assert (found.images[..., 1].mean((1, 2)) > found.images[..., 0].mean((1, 2))).tolist() == [True] * 8 + [False] * 8


def test_torchvisions_cifar10_is_read(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    content = pickle.dumps({b"data": pixels, b"labels": list(range(10)) * 2}, protocol=2)
    (folder / "test_batch").write_bytes(content)
    found = read_split(tmp_path, "test")
    assert found.name == "CIFAR-10 test set"
    assert found.classes == CIFAR10_LABELS
    assert np.array_equal(found.images[3].transpose(2, 0, 1).ravel(), pixels[3])
    assert count_by_class(read_split(folder, "test", limit=10)) == dict.fromkeys(CIFAR10_LABELS, 1)
    with pytest.raises(DataError, match="data_batch_1"):
        read_split(tmp_path, "train")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(DataError, match=r"refused to load os\.system"):
        read_split(tmp_path, "test")


def test_a_limit_takes_images_of_every_class(image_folder):
    assert count_by_class(read_split(image_folder, "train", size=16, limit=6)) == {"green": 3, "red": 3}


def test_held_out_images_are_a_fixed_share_of_every_class(image_folder):
    data = read_split(image_folder, "train", size=16)
    rest, held_out = hold_out(data, 0.25)
    assert count_by_class(rest) == {"green": 18, "red": 18}
    assert count_by_class(held_out) == {"green": 6, "red": 6}
    together = {image.tobytes() for part in (rest, held_out) for image in part.images}
    assert together == {image.tobytes() for image in data.images}
    assert np.array_equal(hold_out(data, 0.25)[1].images, held_out.images)


def test_jpeg_cifar10_does_not_pass_for_the_original(tmp_path):
    for label in CIFAR10_LABELS:
        (tmp_path / "test" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "test" / label / "0.jpg")
    assert read_split(tmp_path, "test").name == "CIFAR-10 test set, JPEG copy"


def test_broken_data_is_one_clear_error(image_folder, tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_split(tmp_path / "nowhere", "test")
    with pytest.raises(MissingSplitError, match="no images found for the test split"):
        read_split(tmp_path, "test")
    (tmp_path / "test" / "empty").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: the class folder has no images"):
        read_split(tmp_path, "test")
    (tmp_path / "test" / "empty" / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"test/empty/bad\.png: .*not an image"):
        read_split(tmp_path, "test")


@pytest.mark.parametrize("name", ["data.tar.xz", "data.tar.gz", "data.tar", "data.zip"])
def test_a_damaged_archive_is_one_clear_error(image_folder, tmp_path, name):
    form = {"data.tar.xz": "xztar", "data.tar.gz": "gztar", "data.tar": "tar", "data.zip": "zip"}[name]
    shutil.make_archive(str(tmp_path / "data"), form, image_folder)
    content = (tmp_path / name).read_bytes()
    for damaged in (b"", b"junk" * 500, content[: len(content) // 2]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(DataError, match=f"{name}"):
            read_split(tmp_path / name, "test")
