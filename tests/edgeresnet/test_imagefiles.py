"""Data sets as people have them: with what their systems put beside the images, in archives of any program."""

import gzip
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeresnet.datasets import MissingSplitError, count_by_class, list_classes, read_split
from edgeresnet.errors import DataError, DataWarning
from edgeresnet.imagefiles import LeftOut, in_archive, in_folder

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02" + bytes(200)
CLASSES = ("cat", "dog")
COUNTS = {"train": 3, "test": 2}


def encode(seed: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def data_files(suffix: str = ".png", kind: str = "PNG") -> dict[str, bytes]:
    return {f"{s}/{c}/{i}{suffix}": encode(i, kind) for s, count in COUNTS.items() for c in CLASSES for i in range(count)}


def as_folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def as_zip(place: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(place.with_suffix(".zip"), "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place.with_suffix(".zip")


def as_tar(place: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(place.with_suffix(".tar"), "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return place.with_suffix(".tar")


FORMS = [as_folder, as_zip, as_tar]


def assert_all_there(data: Path) -> None:
    for split, count in COUNTS.items():
        assert count_by_class(read_split(data, split, size=8)) == dict.fromkeys(CLASSES, count)
        assert list_classes(data, split) == CLASSES


BESIDE = {
    "macOS in folders": {f"{s}/{c}/._{i}.png": APPLE_DOUBLE for s in COUNTS for c in CLASSES for i in range(2)} | {"train/.DS_Store": b"x"},
    "macOS in archives": {f"__MACOSX/{s}/cat/._0.png": APPLE_DOUBLE for s in COUNTS} | {"test/.DS_Store": b"x", "train/.DS_Store": b"x"},
    "notebooks beside": {f"{s}/.ipynb_checkpoints/0-checkpoint.png": encode(0) for s in COUNTS},
    "notebooks inside": {f"{s}/cat/.ipynb_checkpoints/0-checkpoint.png": encode(0) for s in COUNTS},
    "a Synology": {f"{s}/cat/@eaDir/0.png/SYNOPHOTO_THUMB_M.png": encode(0) for s in COUNTS} | {f"{s}/@eaDir/0.png": b"x" for s in COUNTS},
    "Windows": {f"{s}/cat/{name}": b"x" for s in COUNTS for name in ("Thumbs.db", "desktop.ini")},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("system", BESIDE)
def test_what_a_system_puts_beside_images_is_neither_image_nor_class_and_is_told(tmp_path, form, system):
    data = form(tmp_path / "data", data_files() | BESIDE[system])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert_all_there(data)
    assert all(re.search(r"left out: \d+ hidden or of the system \(.+\)", str(warning.message)) for warning in told)
    assert {split for split in COUNTS for warning in told if f"{split} split" in str(warning.message)} == set(COUNTS)


@pytest.mark.parametrize("root", ["", "animals/", "test/", "train/", "data/test/", "test/test/"])
@pytest.mark.parametrize("form", [as_zip, as_tar])
def test_the_root_of_an_archive_may_be_called_anything(tmp_path, form, root):
    assert_all_there(form(tmp_path / "archive", {root + name: content for name, content in data_files().items()}))


def test_classes_may_be_called_train_and_test(tmp_path):
    files = {f"{split}/{label}/0.png": encode(0) for split in ("train", "test") for label in ("train", "test", "van")}
    for form in FORMS:
        assert list_classes(form(tmp_path / "vehicles", files), "test") == ("test", "train", "van")
    nested = as_zip(tmp_path / "nested", {"a/train/cat/x/0.png": encode(0), "test/dog/0.png": encode(1)})
    assert (list_classes(nested, "train"), list_classes(nested, "test")) == (("cat",), ("dog",))


def test_paths_with_backslashes_are_paths(tmp_path):
    assert_all_there(
        as_zip(tmp_path / "old", {f"animals\\{name.replace('/', chr(92))}": content for name, content in data_files().items()})
    )


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".pgm", "PPM"), (".jfif", "JPEG"), (".avif", "AVIF"), (".jp2", "JPEG2000"), (".TGA", "TGA"), (".webp", "WEBP")]
)
def test_rare_suffixes_are_images(tmp_path, suffix, kind):
    mode = "L" if suffix == ".pgm" else "RGB"
    files = {f"test/{label}/{i}{suffix}": encode(i, kind, mode) for label in CLASSES for i in range(2)}
    assert count_by_class(read_split(as_folder(tmp_path, files), "test", size=8)) == dict.fromkeys(CLASSES, 2)


def test_everything_left_out_is_counted_and_named_in_one_line(tmp_path):
    other = {"train/cat/notes.txt": b"", "train/dog/more.txt": b"", "train/dog/README": b"", "train/stray.png": encode(0)}
    data = as_folder(tmp_path, data_files() | other)
    (tmp_path / "train" / "cat" / "gone.png").symlink_to("nowhere")
    (tmp_path / "train" / "cat" / "empty" / "folder.png").mkdir(parents=True)
    with pytest.warns(DataWarning) as told:
        assert len(read_split(data, "train", size=8)) == 6
    (warning,) = told
    assert str(warning.message) == (
        f"{data}, train split: left out: 2 .txt file(s) (cat/notes.txt, ...), 1 image(s) in no class folder (train/stray.png), "
        "1 no file behind the name (cat/gone.png), 1 without suffix (dog/README)"
    )
    with pytest.warns(DataWarning, match=r"1 image\(s\) outside of train and test \(val/cat/0.png\)"):
        read_split(as_zip(tmp_path / "more", data_files() | {"val/cat/0.png": encode(0)}), "train", size=8)


def test_a_class_or_split_without_images_says_what_it_has_instead(tmp_path):
    as_folder(tmp_path, data_files() | {"train/fox/0.heic": b"x"})
    with pytest.raises(DataError, match=r"train/fox: the class folder has no images \(left out: 1 .heic file\(s\) \(fox/0.heic\)\)"):
        read_split(tmp_path, "train", size=8)
    with pytest.raises(MissingSplitError, match=r"left out: 1 .heic file\(s\)"):
        read_split(as_zip(tmp_path / "photos", {"train/fox/0.heic": b"x"}), "train", size=8)


@pytest.mark.parametrize("form", FORMS)
def test_all_broken_images_are_named_in_one_run(tmp_path, form):
    broken = {f"train/dog/bad{i:02}.png": b"junk" for i in range(25)}
    with pytest.raises(DataError) as failed:
        read_split(form(tmp_path / "data", data_files() | broken), "train", size=8)
    message = str(failed.value)
    assert "25 of 31 images cannot be read: " in message
    assert all(name in message for name in sorted(broken)[:20])
    assert message.endswith("; and 5 more; fix: repair or remove them")
    assert "\n" not in message


def test_an_image_or_folder_without_permission_is_a_data_error(tmp_path):
    data = as_folder(tmp_path, data_files())
    secret = data / "train" / "cat" / "0.png"
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(DataError, match=r"1 of 6 images cannot be read: train/cat/0.png: .*Permission denied"):
        read_split(data, "train", size=8)
    secret.parent.chmod(0)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            read_split(data, "train", size=8)
    finally:
        secret.parent.chmod(0o700)


def test_archives_that_cannot_be_unpacked_are_data_errors(tmp_path):
    path = as_zip(tmp_path / "data", data_files())
    content = path.read_bytes()
    encrypted = bytearray(content)
    for place in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        encrypted[place] |= 1
    deflate64 = bytearray(content)
    for place in (content.index(b"PK\x03\x04") + 8, content.index(b"PK\x01\x02") + 10):
        deflate64[place] = 9
    for damaged, message in ((encrypted, "encrypted"), (deflate64, "compression")):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            read_split(path, "train", size=8)


def test_a_file_that_would_unpack_to_a_gigabyte_is_left_out(tmp_path):
    """Archives hold files of zeros, or of holes, at no cost."""
    path = tmp_path / "bomb.tar"
    with path.open("wb") as file:
        member = tarfile.TarInfo("a.png")
        member.size = 2**30
        file.write(member.tobuf())
        file.truncate(1536 + 2**30)
    left_out = LeftOut()
    assert list(in_archive(path, left_out)) == []
    assert "1 larger than 536,870,912 bytes (a.png)" in str(left_out)


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz"])
def test_a_header_that_promises_an_exabyte_is_found_out_at_once(tmp_path, suffix):
    """It would be skipped for years."""
    member = tarfile.TarInfo("a.png")
    member.size = 2**60
    content = member.tobuf(tarfile.GNU_FORMAT)
    path = tmp_path / f"bomb{suffix}"
    path.write_bytes({".tar": bytes, ".tar.gz": gzip.compress, ".tar.xz": lzma.compress}[suffix](content))
    with pytest.raises(DataError, match="unexpected end of data"):
        list(in_archive(path, LeftOut()))


def test_links_and_devices_in_an_archive_are_counted(tmp_path):
    with tarfile.open(tmp_path / "links.tar", "w") as file:
        for name, kind in (("a.png", tarfile.REGTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.SYMTYPE), ("d.png", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.png" if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""
            file.addfile(member)
    left_out = LeftOut()
    assert list(in_archive(tmp_path / "links.tar", left_out)) == [("a.png", b"")]
    assert str(left_out) == "left out: 3 no file behind the name (b.png, ...)"


def test_a_damaged_image_of_a_zip_archive_costs_no_other(tmp_path):
    path = as_zip(tmp_path / "data", {f"{i}.png": b"%d" % i * 50 for i in range(4)})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"2" * 50, b"2" * 49 + b"3"))
    failures = []
    assert [name for name, _ in in_archive(path, LeftOut(), fail=failures.append)] == ["0.png", "1.png", "3.png"]
    assert failures == [f"{path}/2.png: cannot be read from the archive (Bad CRC-32 for file '2.png')"]
    with pytest.raises(DataError, match=r"Bad CRC-32 for file '2\.png'"):
        list(in_archive(path, LeftOut()))


def test_a_folder_that_cannot_be_read_costs_no_other(tmp_path):
    """Such as one whose path is longer than the system takes."""
    as_folder(tmp_path, dict.fromkeys(("a/deep.png", "b/last.png"), b""))
    here = os.open(tmp_path / "a", os.O_RDONLY)
    for _ in range(25):
        os.mkdir("x" * 200, dir_fd=here)
        here, above = os.open("x" * 200, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    failures = []
    assert list(in_folder(tmp_path, LeftOut(), failures.append)) == ["a/deep.png", "b/last.png"]
    (failure,) = failures
    assert failure.strerror == "File name too long"
    with pytest.raises(OSError, match="File name too long"):
        list(in_folder(tmp_path, LeftOut()))


def test_folders_are_searched_in_a_fixed_order(tmp_path):
    as_folder(tmp_path, dict.fromkeys(("b/2.png", "b/10.png", "b/5.png", "a.png", "c/d/e.png", "c/d/a.png", "b/x/y.png"), b""))
    assert list(in_folder(tmp_path, LeftOut())) == ["a.png", "b/10.png", "b/2.png", "b/5.png", "b/x/y.png", "c/d/a.png", "c/d/e.png"]


def test_a_command_tells_what_was_left_out_in_a_note(run_cli, exports, labelled_folder, tmp_path):
    shutil.copytree(labelled_folder / "test", tmp_path / "test")
    (tmp_path / "test" / "cat" / "notes.txt").touch()
    result = run_cli("eval", exports["int8"].path, "--data", tmp_path, "--no-original", "--format", "json")
    assert result.err == f"note: {tmp_path}, test split: left out: 1 .txt file(s) (cat/notes.txt)\n"
    assert json.loads(result.out)["count"] == 30
