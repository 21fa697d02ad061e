"""Labelled images from class folders, archives of them, or torchvision's CIFAR-10 -> uint8 NHWC arrays and labels."""

import lzma
import math
import pickle
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeresnet.cifar10 import CIFAR10_LABELS, CIFAR10_SIZE
from edgeresnet.errors import DataError, ImageError
from edgeresnet.images import SUFFIXES, Pixels, to_pixels
from edgeresnet.machine import available_memory
from edgeresnet.progress import Track, silent
from edgeresnet.spec import ImageInput

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.xz", ".tar.gz", ".tgz", ".zip")
TORCHVISION_FOLDER: Final = "cifar-10-batches-py"
LAYOUTS: Final = (
    "a folder with train/ and test/ folders of one folder per class, an archive of that "
    f"({', '.join(ARCHIVE_SUFFIXES)}), a folder with train and test archives, or the folder of torchvision's CIFAR-10"
)


class MissingSplitError(DataError):
    """The data is readable and has no such split."""


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """One split of a data set, in memory.

    Attributes:
        images: uint8 (N, height, width, channels).
        labels: int64 (N,), indices into ``classes``.
        classes: Class names, sorted.
        name: What a report calls this data.
    """

    images: Pixels
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: NDArray[np.int64]) -> "LabelledImages":
        """The images at ``indices``, in that order."""
        return LabelledImages(images=self.images[indices], labels=self.labels[indices], classes=self.classes, name=self.name)


@dataclass(frozen=True, kw_only=True)
class _EncodedImage:
    """An image file of a split: where it came from, its class, and a way to its bytes."""

    path: str
    label: str
    read: Callable[[], bytes]


def read_split(
    data: Path, split: str, *, size: int | ImageInput = CIFAR10_SIZE, limit: int | None = None, track: Track = silent
) -> LabelledImages:
    """Read one split of a data set into memory.

    Args:
        data: Any of ``LAYOUTS``.
        split: ``train`` or ``test``.
        size: The model's input that the images are fitted to; a number is short for RGB stretched to a square of that side.
        limit: Take this many images, spread evenly over the classes, instead of all.
        track: Progress reporter.

    Raises:
        MissingSplitError: If ``data`` holds no images of this split in any known layout.
        DataError: If ``data`` does not exist, a class is empty, or an image or archive cannot be read.
    """
    wanted = ImageInput.of(size)
    if not data.exists():
        raise DataError(f"{data}: no such file or folder; --data takes {LAYOUTS}")
    batches = data if data.name == TORCHVISION_FOLDER else data / TORCHVISION_FOLDER
    if batches.is_dir():
        return _limited(_read_torchvision_cifar10(batches, split, wanted, track), limit)
    entries = sorted(_find_images(data, split), key=lambda entry: (entry.label, entry.path))
    if not entries:
        raise MissingSplitError(f"{data}: no images found for the {split} split; --data takes {LAYOUTS}")
    classes = tuple(sorted({entry.label for entry in entries}))
    if limit is not None:
        entries = [entries[i] for i in _spread(len(entries), limit)]
    check_memory(len(entries), wanted, str(data))
    images = np.empty((len(entries), *wanted.shape), np.uint8)
    for i, entry in enumerate(track(entries, f"reading {split} images")):
        try:
            images[i] = to_pixels(entry.read(), wanted)
        except ImageError as error:
            raise DataError(f"{data}: {entry.path}: {error}; fix: repair or remove the file") from error
    index = {label: i for i, label in enumerate(classes)}
    labels = np.array([index[entry.label] for entry in entries], np.int64)
    return LabelledImages(images=images, labels=labels, classes=classes, name=_describe(data, split, classes, entries))


def check_memory(count: int, size: ImageInput, where: str) -> None:
    """Make sure that images, which are held as they are, fit into what memory is free.

    Raises:
        DataError: If they do not.
    """
    needed, available = count * math.prod(size.shape), available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"{where}: {count:,} images of {size.height} x {size.width} take {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB of memory "
            "are free; fix: smaller images (--image-size) or fewer of them"
        )


def hold_out(data: LabelledImages, fraction: float) -> tuple[LabelledImages, LabelledImages]:
    """Split off the same fraction of every class, at random but the same of the same data every time.

    A run that goes on from the weights of another thus never meets validation images that those were trained on.

    Returns:
        The rest and the held-out part.
    """
    generator = np.random.default_rng(0)
    held_out = np.zeros(len(data), bool)
    for label in range(len(data.classes)):
        members = np.flatnonzero(data.labels == label)
        count = max(1, round(fraction * len(members)))
        if count >= len(members):
            raise DataError(f"class {data.classes[label]!r} has {len(members)} image(s), too few to hold out {fraction:.0%} for validation")
        held_out[generator.permutation(members)[:count]] = True
    return data.subset(np.flatnonzero(~held_out)), data.subset(np.flatnonzero(held_out))


def _spread(count: int, limit: int) -> list[int]:
    """Indices of ``limit`` items spaced evenly over ``count`` sorted by class, so that every class is represented."""
    return list(range(count)) if limit >= count else [i * count // limit for i in range(limit)]


def _limited(data: LabelledImages, limit: int | None) -> LabelledImages:
    if limit is None or limit >= len(data):
        return data
    by_class = np.argsort(data.labels, kind="stable")
    return data.subset(by_class[_spread(len(data), limit)])


def _describe(data: Path, split: str, classes: Sequence[str], entries: Sequence[_EncodedImage]) -> str:
    """Name the data; CIFAR-10 that went through JPEG is harder than the original and must not pass for it."""
    if tuple(classes) == CIFAR10_LABELS:
        suffixes = {PurePosixPath(entry.path).suffix.lower() for entry in entries}
        return f"CIFAR-10 {split} set, {'JPEG copy' if suffixes & {'.jpg', '.jpeg'} else 'image files'}"
    return f"{data.resolve().name} {split} set"


def _find_images(data: Path, split: str) -> Iterator[_EncodedImage]:
    if data.is_file():
        yield from _in_archive(data, split)
    elif (data / split).is_dir():
        yield from _in_folder(data, split)
    else:
        for suffix in ARCHIVE_SUFFIXES:
            archive = data / f"{split}{suffix}"
            if archive.is_file():
                yield from _in_archive(archive, split)
                return


def _in_folder(data: Path, split: str) -> Iterator[_EncodedImage]:
    folders = sorted(folder for folder in (data / split).iterdir() if folder.is_dir())
    for folder in folders:
        files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
        if not files:
            raise DataError(f"{folder}: the class folder has no images; fix: add some or remove the folder")
        for file in files:
            yield _EncodedImage(path=file.relative_to(data).as_posix(), label=folder.name, read=file.read_bytes)


def _in_archive(archive: Path, split: str) -> Iterator[_EncodedImage]:
    members = _zip_members(archive) if archive.suffix.lower() == ".zip" else _tar_members(archive)
    try:
        for name, content in members:
            label = _label_in_archive(name, split)
            if label is not None:
                yield _EncodedImage(path=name, label=label, read=BytesIO(content).getvalue)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{archive}: the archive cannot be read ({error}); it must be one of {', '.join(ARCHIVE_SUFFIXES)}") from error


def _label_in_archive(name: str, split: str) -> str | None:
    """The class folder of ``[.../]SPLIT/CLASS/FILE``, or None for a member that is no image of this split."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in SUFFIXES or split not in path.parts[:-2]:
        return None
    return path.parts[path.parts.index(split) + 1]


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if not member.is_dir():
                yield member.filename, file.read(member)


def _tar_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive, "r|*") as file:
        for member in file:
            stream = file.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield member.name, stream.read()


class _ArrayUnpickler(pickle.Unpickler):
    """Reads CIFAR-10's pickled dictionaries of arrays and refuses to import anything else."""

    ALLOWED: Final = frozenset({"_reconstruct", "ndarray", "dtype", "encode"})

    def find_class(self, module: str, name: str) -> Any:
        if name in self.ALLOWED and module.split(".", maxsplit=1)[0] in ("numpy", "_codecs"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused to load {module}.{name}")


def _read_torchvision_cifar10(folder: Path, split: str, wanted: ImageInput, track: Track) -> LabelledImages:
    files = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    pixels: list[Pixels] = []
    labels: list[int] = []
    try:
        for file in files:
            with (folder / file).open("rb") as stream:
                batch = _ArrayUnpickler(stream, encoding="bytes").load()
            pixels.append(batch[b"data"].reshape(-1, 3, CIFAR10_SIZE, CIFAR10_SIZE).transpose(0, 2, 3, 1))
            labels.extend(batch[b"labels"])
    except (OSError, EOFError, pickle.UnpicklingError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{folder / file}: cannot be read as a CIFAR-10 batch ({error}); fix: download it again") from error
    images = np.concatenate(pixels)
    if wanted != ImageInput.of(CIFAR10_SIZE):
        check_memory(len(images), wanted, str(folder))
        originals, images = images, np.empty((len(images), *wanted.shape), np.uint8)
        for i, image in enumerate(track(originals, f"resizing {split} images")):
            images[i] = to_pixels(image, wanted)
    return LabelledImages(images=images, labels=np.array(labels, np.int64), classes=CIFAR10_LABELS, name=f"CIFAR-10 {split} set")


def count_by_class(data: LabelledImages) -> dict[str, int]:
    """Number of images of each class, in the order of the classes."""
    counts = Counter(data.labels.tolist())
    return {name: counts[i] for i, name in enumerate(data.classes)}
