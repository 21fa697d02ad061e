"""LiteRT (TensorFlow Lite) beside this project: the same weights, its FP32 and its dynamic-range INT8 form.

``pip install 'edgeresnet[litert]'``, then ``python -m benchmarks.studies.litert build/resnet18-fp32.onnx build/resnet18-int8.onnx``
"""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import describe_environment
from benchmarks.intervals import estimate_median
from benchmarks.latency import Timings, measure_latency
from benchmarks.subjects import OnnxSubject, OriginalSubject, Subject, check_same_weights, collect_answers
from benchmarks.summary import Case, select
from edgeresnet.datasets import read_split
from edgeresnet.errors import EdgeResNetError
from edgeresnet.evaluation import SYNTHETIC_NAME, compare_logits, synthetic_images
from edgeresnet.extras import needing
from edgeresnet.images import Pixels
from edgeresnet.spec import ModelSpec
from edgeresnet.target import Target

PRECISIONS: Final = ("fp32", "int8")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One model file.

    Attributes:
        model: File name.
        runtime: ``onnxruntime`` or ``litert``.
        precision: Of its weights.
        size_bytes: Of the file.
        p50_ms: Median time of a call with one image, all models in turns.
        sqnr_db: Of its logits against the PyTorch original's.
        agreement: Fraction of images with the original's top-1 class.
    """

    model: str
    runtime: str
    precision: str
    size_bytes: int
    p50_ms: float
    sqnr_db: float
    agreement: float


@dataclass(frozen=True)
class LiteRTSubject:
    """A .tflite file that takes uint8 (1, size, size, 3)."""

    path: Path
    spec: ModelSpec
    threads: int
    runtime: str = "litert"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def load(self) -> "LoadedLiteRT":
        return LoadedLiteRT(self.path, self.threads)

    def with_threads(self, threads: int) -> Self:
        return replace(self, threads=threads)


class LoadedLiteRT:
    """LiteRT's interpreter, with the XNNPACK kernels that it takes by itself on CPUs.

    The full INT8 form takes and gives codes, which are part of its call here as they are of an application's.
    """

    provider = "LiteRT CPU"

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter: Any = Interpreter(str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        (self._input,), (self._output,) = self._interpreter.get_input_details(), self._interpreter.get_output_details()

    def logits(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        return np.concatenate([self._run(image) for image in pixels])

    def close(self) -> None:
        self._interpreter = None

    def _run(self, image: NDArray[Any]) -> NDArray[np.float32]:
        scale, zero_point = self._input["quantization"]
        if scale and image.dtype == np.float32:
            image = np.clip(np.rint(image / scale) + zero_point, -128, 127).astype(self._input["dtype"])
        self._interpreter.set_tensor(self._input["index"], image[None])
        self._interpreter.invoke()
        logits: NDArray[np.float32] = self._interpreter.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return np.float32(scale) * (logits.astype(np.float32) - zero_point) if scale else logits


def convert_weights(weights: Path, folder: Path) -> dict[str, Path]:
    """Convert a weights file with LiteRT's own tools; returns a .tflite file by precision."""
    import torch

    from edgeresnet.training.weights import load_weights

    trained = load_weights(weights)
    return convert(trained.model.eval(), torch.zeros(1, *trained.spec.input.shape, dtype=torch.uint8), folder, trained.spec.architecture)


def convert(module: Any, image: Any, folder: Path, name: str, calibration: Sequence[NDArray[Any]] = ()) -> dict[str, Path]:
    """Convert a PyTorch module with LiteRT's own tools, by their standard recipes.

    Args:
        module: In evaluation mode.
        image: A tensor such as it takes.
        folder: Where the files are written.
        name: Begin of their names.
        calibration: Values of its input, for the full INT8 form.

    Returns:
        A .tflite file by precision: ``PRECISIONS``, and ``int8-static`` if there is calibration.
    """
    import litert_torch
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    files = {precision: folder / f"{name}-{precision}.tflite" for precision in (*PRECISIONS, *(["int8-static"] if calibration else []))}
    litert_torch.convert(module, (image,)).export(str(files["fp32"]))
    for precision in files.keys() - {"fp32"}:
        quantization = quantizer.Quantizer(str(files["fp32"]))
        quantization.load_quantization_recipe(recipe.dynamic_wi8_afp32() if precision == "int8" else recipe.static_wi8_ai8())
        ranges = None
        if precision == "int8-static":
            ((signature, names),) = Interpreter(str(files["fp32"])).get_signature_list().items()
            ranges = quantization.calibrate({signature: [{names["inputs"][0]: values} for values in calibration]})
        quantization.quantize(ranges).export_model(str(files[precision]))
    return files


def compare(models: Sequence[OnnxSubject], original: OriginalSubject, images: Pixels, threads: int, seconds: float) -> list[Compared]:
    """Convert the original for LiteRT and hold both runtimes against it.

    Args:
        models: ONNX files of the same weights.
        original: Those weights.
        images: uint8 (N, height, width, channels) to compare the answers on.
        threads: CPU threads of each.
        seconds: Time to spend on the timed calls of a model, at least.

    Raises:
        ModelFormatError: If a model is of other weights than the original.
        MissingExtraError: If LiteRT or its converter is not installed.
    """
    check_same_weights(list(models), original)
    with TemporaryDirectory(prefix="edgeresnet-") as folder:
        with apart() as pool, needing("litert"):
            files = pool.submit(convert_weights, original.path, Path(folder)).result()
        subjects: list[Subject] = [*models]
        subjects += [LiteRTSubject(path, replace(original.spec, precision=precision), threads) for precision, path in files.items()]
        timings = [Timings() for _ in subjects]
        measure_latency(list(zip(subjects, timings, strict=True)), [Case()], images, min_time_s=seconds)
        expected = collect_answers(original, images)
        results = []
        for subject, timing in zip(subjects, timings, strict=True):
            parity = compare_logits(expected, collect_answers(subject, images))
            results.append(
                Compared(
                    model=subject.name,
                    runtime=subject.runtime,
                    precision=subject.spec.precision,
                    size_bytes=subject.size_bytes,
                    p50_ms=estimate_median(select(timing.visits[Case()])).value,
                    sqnr_db=parity.sqnr_db,
                    agreement=parity.agreement,
                )
            )
    return results


def apart() -> ProcessPoolExecutor:
    """A process of its own for the converter, which leaves threads behind, and prints."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _print_on_stderr)


def _print_on_stderr() -> None:
    os.dup2(2, 1)


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--original", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Weights file. [default: the bundled one]")
@click.option("--data", type=click.Path(exists=True, path_type=Path), envvar="EDGERESNET_DATA", help="Images. [default: generated ones]")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of images.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0), default=8.0, show_default=True, help="Timed calls of a model, at least.")
def command(models: tuple[Path, ...], original: Path | None, data: Path | None, limit: int, threads: int, seconds: float) -> None:
    """Measure the ONNX files MODELS and LiteRT's forms of the same weights at batch 1; prints JSON."""
    try:
        reference = OriginalSubject.of(original, threads)
        subjects = [OnnxSubject.of(model, Target(threads=threads)) for model in models]
        size = reference.spec.input
        split = read_split(data, "test", size=size, limit=limit) if data else None
        images = split.images if split else synthetic_images(size, limit)
        results = compare(subjects, reference, images, threads, seconds)
    except EdgeResNetError as error:
        raise click.ClickException(str(error)) from error
    for result in results:
        click.echo(f"{result.model} ({result.runtime}): {result.p50_ms:.2f} ms, {result.sqnr_db:.1f} dB, {result.agreement:.2%}", err=True)
    record = {
        "environment": describe_environment(),
        "threads": threads,
        "images": len(images),
        "data": split.name if split else SYNTHETIC_NAME,
        "results": [asdict(result) for result in results],
    }
    click.echo(json.dumps(record, indent=1))


if __name__ == "__main__":
    # Models are sent to other processes, which know the class under the module's own name alone.
    from benchmarks.studies.litert import command as run

    run()
