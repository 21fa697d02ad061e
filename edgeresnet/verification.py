"""Does this machine answer as the maker's did? A model file carries a few images and the logits that its maker saw on them."""

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgeresnet.errors import ModelFormatError
from edgeresnet.images import Pixels
from edgeresnet.modelfile import FINGERPRINT_KEY
from edgeresnet.session import Session
from edgeresnet.spec import PREFIX

GOLDEN_KEY: Final = PREFIX + "golden"
# Where a provider was allowed to compute in TF32 or bfloat16, which have the 11 bits of half precision or fewer.
LEAST_DB_REDUCED: Final = 25.0


@dataclass(frozen=True, kw_only=True, eq=False)
class GoldenAnswers:
    """Images and what the maker of a file saw its model answer.

    Attributes:
        images: uint8 (N, height, width, channels).
        logits: float32 (N, classes).
        least_db: How close the answers to the image that fits worst must come (see ``closeness_db``).
    """

    images: Pixels
    logits: NDArray[np.float32]
    least_db: float

    def to_metadata(self) -> dict[str, str]:
        """The metadata entry: JSON with the images as PNG and the logits as little-endian float32, both in base64."""
        entries = {
            "images": [_encode_png(image) for image in self.images],
            "logits": b64encode(self.logits.astype("<f4").tobytes()).decode(),
            "least_db": round(self.least_db, 2),
        }
        return {GOLDEN_KEY: json.dumps(entries)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """Read the entry back; None if there is none.

        Raises:
            ModelFormatError: If it is broken.
        """
        if GOLDEN_KEY not in metadata:
            return None
        try:
            entries = json.loads(metadata[GOLDEN_KEY])
            images = np.stack([_decode_png(text) for text in entries["images"]])
            logits = np.frombuffer(b64decode(entries["logits"], validate=True), "<f4").reshape(len(images), -1)
            return cls(images=images, logits=logits, least_db=float(entries["least_db"]))
        # Pillow's decoders raise what they meet in broken data: OSError, SyntaxError, ValueError.
        except (KeyError, TypeError, ValueError, RecursionError, OSError, SyntaxError) as error:
            raise ModelFormatError(f"the answers in the file's metadata are broken ({error!r}); fix: get the file again") from error


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How the answers of this machine compare with those of the maker's.

    Attributes:
        intact: Whether the file is, byte for byte, what its maker wrote.
        count: Number of images.
        closeness_db: Of the answers to the image that fits worst.
        least_db: What is needed.
        largest_difference: Of any logit.
        agreement: Fraction of images with the same top-1 class.
        provider: That ran them.
        threads: CPU threads that it had.
        arithmetic: In what it computes FP32 products, where that is not FP32.
    """

    intact: bool
    count: int
    closeness_db: float
    least_db: float
    largest_difference: float
    agreement: float
    provider: str
    threads: int
    arithmetic: str | None

    @property
    def answers_hold(self) -> bool:
        """Whether the answers are as close as they need to be."""
        return self.closeness_db >= self.least_db

    @property
    def holds(self) -> bool:
        """Whether the file is what its maker wrote and this machine answers as the maker's did."""
        return self.intact and self.answers_hold


def verify(session: Session) -> Verification:
    """Run the images that a model file carries, on the session's provider and threads, and compare.

    Raises:
        ModelFormatError: If the file carries no answers, or broken ones.
        ModelNotFoundError: If the file has gone since it was opened.
        ImageError: If the images are not of the model's input size.
    """
    file = session.read_file()
    golden = GoldenAnswers.from_metadata(file.metadata)
    if golden is None:
        raise ModelFormatError("the file carries no answers to compare with; fix: make it anew with this release of edgeresnet")
    logits = session.logits(golden.images)
    if logits.shape != golden.logits.shape:
        raise ModelFormatError(f"the file carries answers of the shape {golden.logits.shape}, its model answers {logits.shape}")
    difference = np.abs(logits.astype(np.float64) - golden.logits)
    return Verification(
        intact=file.metadata.get(FINGERPRINT_KEY) == file.fingerprint,
        count=len(logits),
        closeness_db=closeness_db(golden.logits, logits),
        least_db=golden.least_db if session.arithmetic is None else min(golden.least_db, LEAST_DB_REDUCED),
        largest_difference=float(difference.max()),
        agreement=float((logits.argmax(1) == golden.logits.argmax(1)).mean()),
        provider=session.provider,
        threads=session.target.cores,
        arithmetic=session.arithmetic,
    )


def closeness_db(expected: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """How close logits are to those expected, in dB, on the image where they are furthest.

    The spread of an image's logits, which tells the classes apart, over how far they are off; what all have in common counts for neither.

    Args:
        expected: float32 (N, classes).
        logits: Likewise.

    Returns:
        Infinity where all are equal, NaN where one is not a number.
    """
    right, found = (values - values.mean(1, keepdims=True, dtype=np.float64) for values in (expected, logits))
    signal, noise = np.square(right).sum(1), np.square(found - right).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(noise == 0, np.inf, 10 * np.log10(signal / noise))
    return float(ratios.min())


def _encode_png(image: Pixels) -> str:
    stream = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).save(stream, "PNG", optimize=True)
    return b64encode(stream.getvalue()).decode()


def _decode_png(text: str) -> Pixels:
    with Image.open(io.BytesIO(b64decode(text, validate=True)), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]
