"""Labelled images from class folders, archives of them, or torchvision's CIFAR-10 -> uint8 NHWC arrays and labels."""

import hashlib
import math
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeresnet.cifar10 import CIFAR10_LABELS, CIFAR10_SIZE
from edgeresnet.errors import DataError, DataWarning, ImageError
from edgeresnet.imagefiles import ARCHIVE_SUFFIXES, LeftOut, in_archive, in_folder, is_of_system
from edgeresnet.images import Pixels, to_pixels
from edgeresnet.machine import available_memory
from edgeresnet.progress import Track, silent
from edgeresnet.spec import ImageInput

SPLITS: Final = ("train", "test")
# Of broken images this many are named.
MOST_NAMED: Final = 20
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
        DataError: If ``data`` does not exist, a class is empty, or images or an archive cannot be read; names all such images.

    Warns:
        DataWarning: Of files that were left out: other files than images, and what systems put beside them.
    """
    wanted = ImageInput.of(size)
    batches = _torchvision_folder(data)
    if batches is not None:
        return take_evenly(_read_torchvision_cifar10(batches, split, wanted, track), limit)
    entries = _list_images(data, split)
    classes = tuple(sorted({entry.label for entry in entries}))
    if limit is not None:
        entries = [entries[i] for i in _spread(len(entries), limit)]
    check_memory(len(entries), wanted, str(data))
    images = np.empty((len(entries), *wanted.shape), np.uint8)
    broken: list[str] = []
    for i, entry in enumerate(track(entries, f"reading {split} images")):
        try:
            images[i] = to_pixels(entry.read(), wanted)
        except (ImageError, OSError) as error:
            broken.append(f"{entry.path}: {error}")
    if broken:
        more = f"; and {len(broken) - MOST_NAMED:,} more" if len(broken) > MOST_NAMED else ""
        raise DataError(
            f"{data}: {len(broken):,} of {len(entries):,} images cannot be read: {'; '.join(broken[:MOST_NAMED])}{more}; "
            "fix: repair or remove them"
        )
    index = {label: i for i, label in enumerate(classes)}
    labels = np.array([index[entry.label] for entry in entries], np.int64)
    return LabelledImages(images=images, labels=labels, classes=classes, name=_describe(data, split, classes, entries))


def list_classes(data: Path, split: str) -> tuple[str, ...]:
    """Names of the classes that ``read_split`` would find, sorted; no image is decoded.

    Raises:
        MissingSplitError: If ``data`` holds no images of this split in any known layout.
        DataError: If ``data`` does not exist, a class is empty, or an archive cannot be read.
    """
    if _torchvision_folder(data) is not None:
        return CIFAR10_LABELS
    return tuple(sorted({entry.label for entry in _list_images(data, split)}))


def check_test_classes(data: Path, classes: tuple[str, ...]) -> None:
    """Make sure, before hours are spent on training, that a test split, if there is one, can measure what comes out.

    Raises:
        DataError: If it has other classes, an empty one, or cannot be read.
    """
    try:
        found = list_classes(data, "test")
    except MissingSplitError:
        return
    if found != classes:
        lacks, adds = (", ".join(sorted(names)) for names in (set(classes) - set(found), set(found) - set(classes)))
        difference = "; ".join(f"{what} {names}" for what, names in (("it lacks", lacks), ("it alone has", adds)) if names)
        raise DataError(f"{data}: the test split has other classes than the training split: {difference}; fix: add or remove their images")


def describe_content(data: LabelledImages) -> str:
    """Number of images and a checksum of their pixels and labels: whether they are the same as another time."""
    digest = hashlib.sha256(np.ascontiguousarray(data.images).data)
    digest.update(np.ascontiguousarray(data.labels).data)
    return f"{len(data):,} images, SHA-256 {digest.hexdigest()[:16]}"


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


def take_evenly(data: LabelledImages, limit: int | None) -> LabelledImages:
    """So many of the images, spread evenly over the classes and in their order; all, as they are, if there are no more or it is None."""
    if limit is None or limit >= len(data):
        return data
    by_class = np.argsort(data.labels, kind="stable")
    return data.subset(by_class[_spread(len(data), limit)])


def _spread(count: int, limit: int) -> list[int]:
    """Indices of ``limit`` items spaced evenly over ``count`` sorted by class, so that every class is represented."""
    return list(range(count)) if limit >= count else [i * count // limit for i in range(limit)]


def _describe(data: Path, split: str, classes: Sequence[str], entries: Sequence[_EncodedImage]) -> str:
    """Name the data; CIFAR-10 that went through JPEG is harder than the original and must not pass for it."""
    if tuple(classes) == CIFAR10_LABELS:
        suffixes = {PurePosixPath(entry.path).suffix.lower() for entry in entries}
        return f"CIFAR-10 {split} set, {'JPEG copy' if suffixes & {'.jpg', '.jpeg'} else 'image files'}"
    return f"{data.resolve().name} {split} set"


def _torchvision_folder(data: Path) -> Path | None:
    """Where torchvision's CIFAR-10 lies; None if ``data`` is something else."""
    if not data.exists():
        raise DataError(f"{data}: no such file or folder; --data takes {LAYOUTS}")
    batches = data if data.name == TORCHVISION_FOLDER else data / TORCHVISION_FOLDER
    return batches if batches.is_dir() else None


def _list_images(data: Path, split: str) -> list[_EncodedImage]:
    """The images of a split, by class and name. What is left out is warned of."""
    left_out = LeftOut()
    try:
        entries = sorted(_find_images(data, split, left_out), key=lambda entry: (entry.label, entry.path))
    except OSError as error:
        raise DataError(f"{error.filename or data}: cannot be read ({error.strerror or error})") from error
    if not entries:
        remark = f" ({left_out})" if left_out else ""
        raise MissingSplitError(f"{data}: no images found for the {split} split{remark}; --data takes {LAYOUTS}")
    if left_out:
        warnings.warn(f"{data}, {split} split: {left_out}", DataWarning, stacklevel=3)
    return entries


def _find_images(data: Path, split: str, left_out: LeftOut) -> Iterator[_EncodedImage]:
    if data.is_file():
        yield from _in_archive(data, split, left_out)
    elif (data / split).is_dir():
        yield from _in_class_folders(data, split, left_out)
    else:
        for suffix in ARCHIVE_SUFFIXES:
            archive = data / f"{split}{suffix}"
            if archive.is_file():
                yield from _in_archive(archive, split, left_out)
                return


def _in_class_folders(data: Path, split: str, left_out: LeftOut) -> Iterator[_EncodedImage]:
    root = data / split
    found: Counter[str] = Counter()
    for path in in_folder(root, left_out):
        label, _, name = path.partition("/")
        if not name:
            left_out.add(f"{split}/{path}", "image(s) in no class folder")
            continue
        found[label] += 1
        yield _EncodedImage(path=f"{split}/{path}", label=label, read=(root / path).read_bytes)
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and not found[folder.name] and not is_of_system(folder.name):
            remark = f" ({left_out})" if left_out else ""
            raise DataError(f"{folder}: the class folder has no images{remark}; fix: add some or remove the folder")


def _in_archive(archive: Path, split: str, left_out: LeftOut) -> Iterator[_EncodedImage]:
    """Images below ``[.../]SPLIT/CLASS/``, whatever the folders are called in which the splits lie."""
    paths: list[str] = []

    def choose(path: str) -> bool:
        paths.append(path)
        return split in PurePosixPath(path).parts[:-2]

    candidates = list(in_archive(archive, left_out, choose))
    depth = _split_depth(paths)
    for path in paths:
        if not set(SPLITS) & set(PurePosixPath(path).parts[:-2]):
            left_out.add(path, f"image(s) outside of {' and '.join(SPLITS)}")
    for path, content in candidates:
        folders = PurePosixPath(path).parts[:-1]
        place = folders.index(split) if depth is None else depth
        if folders[place] == split:
            yield _EncodedImage(path=path, label=folders[place + 1], read=BytesIO(content).getvalue)


def _split_depth(paths: Sequence[str]) -> int | None:
    """How deep the folders train and test lie in an archive; None if that is not the same everywhere.

    An archive's root may itself be called ``test``, and a class ``train``: the splits are the deepest folders that have such a name in
    every path and a class below them.
    """
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    folders = [parts for parts in folders if set(SPLITS) & set(parts[:-1])]
    shortest = min(map(len, folders), default=0)
    return max((i for i in range(shortest - 1) if all(parts[i] in SPLITS for parts in folders)), default=None)


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
