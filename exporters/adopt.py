"""Takes in anybody's ONNX classifier: raw pixels in, described, and proven to answer as it did."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgeresnet.errors import ExportError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.files import write_bytes
from edgeresnet.images import Pixels
from edgeresnet.preprocessing import Changes, Preprocessing
from edgeresnet.session import Session
from edgeresnet.spec import LAYOUTS, PREFIX, PROBABILITIES, ImageInput, ModelSpec
from exporters.foreign.classifier import judge_output, name_classes, read_scores
from exporters.foreign.inputs import ImageTensor
from exporters.foreign.pixels import PixelPath, take_pixels
from exporters.foreign.prepare import PreparedModel, prepare
from exporters.metadata import seal, tool_versions
from exporters.sessions import open_session, run_session

PROOF_IMAGES: Final = 16
# Of the largest answer. Folded constants change the order of float32 sums, which is noise of 1e-6; float16 rounds every result to 5e-4.
SAME: Final = 1e-4
SAME_HALF: Final = 2e-2


@dataclass(frozen=True, kw_only=True)
class AdoptedModel:
    """A file that was written, and what is known of it.

    Attributes:
        path: The file.
        spec: Its description.
        size_bytes: Its size.
        found: What the foreign file itself told: its input.
        labels_from: Where the class names come from, as a phrase.
        fixed_batch: Number of images that a run takes; None for any.
        relative_difference: Largest difference from the foreign file's answers over their largest value.
        count: Number of images that this was measured on.
    """

    path: Path
    spec: ModelSpec
    size_bytes: int
    found: ImageTensor
    labels_from: str
    fixed_batch: int | None
    relative_difference: float
    count: int


def adopt_model(
    source: Path,
    target: Path,
    *,
    labels: tuple[str, ...] | None = None,
    changes: Changes | None = None,
    pixel_range: int | None = None,
    bgr: bool = False,
    fixed: Mapping[str, str | float] | None = None,
) -> AdoptedModel:
    """Make a file of this project from a foreign ONNX classifier, and write it if it answers alike.

    Args:
        source: The foreign file: one image input, NCHW or NHWC, float32, float16 or uint8; one output of a value for each class.
        target: The file to write.
        labels: Class names in the order of the output. By default those that the file carries, else numbers.
        changes: How images are fitted and normalized. A float input needs its normalization: mean and standard deviation, a preset, or
            ``pixel_range``.
        pixel_range: Largest pixel that the foreign input expects before mean and standard deviation: 1 or 255.
        bgr: The foreign input takes blue first.
        fixed: Value of each input that is not the images.

    Raises:
        ModelNotFoundError: If there is no such file.
        ModelFormatError: If it is not an ONNX model.
        ExportError: If it is no classifier, contradicts what is said of it, or its answers would change; nothing is written then.
        PreprocessingError: If ``changes`` make no sense.
    """
    changes = changes or Changes()
    prepared = prepare(source, size=changes.size, fixed=fixed, open_batch=True)
    try:
        if any(entry.key == f"{PREFIX}format_version" for entry in prepared.model.metadata_props):
            raise ExportError("is a model of this project already; there is nothing to adopt")
        preprocessing = _decide_preprocessing(prepared.image_input, changes, pixel_range, bgr=bgr)
        path = PixelPath(image=prepared.image_input, preprocessing=preprocessing, bgr=bgr)
        pixels = synthetic_images(preprocessing.input, PROOF_IMAGES)
        expected = _answer(prepared, path, pixels)
        output = judge_output(prepared.model, expected)
        names, labels_from = name_classes(prepared.model, expected.shape[1], labels)
        model = take_pixels(prepared.model, path, output)
        spec = ModelSpec(
            labels=names,
            input=preprocessing.input,
            mean=preprocessing.mean,
            std=preprocessing.std,
            output=output,
            architecture=source.stem,
            precision="fp32",
            checkpoint_sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
            versions=tool_versions(),
        )
        content = seal(model, spec)
        with Session(content) as session:
            logits, fixed_batch = session.logits(pixels), session.fixed_batch
        difference = _relative_difference(expected, np.exp(logits) if output == PROBABILITIES else logits)
        if not difference <= _tolerance(prepared):
            raise ExportError(f"the answers would differ by {difference:.2g} of the largest; nothing was written")
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error
    write_bytes(target, content)
    return AdoptedModel(
        path=target,
        spec=spec,
        size_bytes=len(content),
        found=prepared.image_input,
        labels_from=labels_from,
        fixed_batch=fixed_batch,
        relative_difference=difference,
        count=len(pixels),
    )


def _decide_preprocessing(image: ImageTensor, changes: Changes, pixel_range: int | None, *, bgr: bool) -> Preprocessing:
    """What the file tells of its input, with what the user says of the rest."""
    if image.channels not in LAYOUTS:
        raise ExportError(f"the images, {image.name}, have {image.channels} channels; only grey (1) and RGB (3) can be adopted")
    if bgr and image.channels == 1:
        raise ExportError(f"--bgr: the images, {image.name}, are grey")
    known = ImageInput(height=image.height, width=image.width, channels=image.channels)
    said = [name for name in ("preset", "mean", "std") if getattr(changes, name) is not None] + (["pixel-range"] if pixel_range else [])
    if image.element_type == "uint8":
        if said:
            raise ExportError(f"--{said[0]}: the images, {image.name}, are uint8, so their normalization is inside the model already")
        # What the model does to pixels is its own affair.
        return changes.apply(Preprocessing(input=known, mean=(0.0,) * image.channels, std=(1.0,) * image.channels))
    if not said:
        raise ExportError(
            f"the images, {image.name}, are {image.element_type}, and no file tells how pixels become that; fix: --preset imagenet; or "
            "--mean and --std; or --pixel-range 255 (numbers as they are) or 1 (divided by 255)"
        )
    return changes.apply(Preprocessing(input=known, mean=(0.0,) * image.channels, std=(1 / (pixel_range or 1),) * image.channels))


def _answer(prepared: PreparedModel, path: PixelPath, pixels: Pixels) -> NDArray[np.float32]:
    """What the foreign file answers, with plain array arithmetic in front of it: float32 (N, classes)."""
    session = open_session(prepared.source)
    per_call = prepared.image_input.batch or 1
    rows = []
    for start in range(0, len(pixels), per_call):
        call = np.resize(pixels[start : start + per_call], (per_call, *pixels.shape[1:]))
        rows.append(read_scores(run_session(session, {prepared.image_input.name: path(call)}), per_call))
    return np.concatenate(rows)[: len(pixels)]


def _relative_difference(expected: NDArray[np.float32], answers: NDArray[np.float32]) -> float:
    """Largest difference over the largest answer expected."""
    return float(np.abs(answers - expected).max() / max(float(np.abs(expected).max()), np.finfo(np.float32).tiny))


def _tolerance(prepared: PreparedModel) -> float:
    return SAME_HALF if prepared.half else SAME
