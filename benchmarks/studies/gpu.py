"""Everything that this project says of a GPU, measured in one run of some minutes.

``python -m benchmarks.studies.gpu MODELS... --data DATA --output FOLDER``; with ``--provider cpu`` the same steps run without a GPU, so
that no minute of one is spent on a mistake. Each step writes its file as it ends; one that fails leaves its reason.
"""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from benchmarks.accuracy import describe_answers
from benchmarks.bench import BenchSettings, run_benchmark
from benchmarks.environment import describe_environment
from benchmarks.latency import Timings, measure_latency
from benchmarks.originals import choose_original
from benchmarks.subjects import OnnxSubject, OriginalSubject, collect_answers
from benchmarks.summary import Case, summarize
from benchmarks.tuning.racing import IMAGES_PER_CALL
from benchmarks.tuning.result import tune
from benchmarks.tuning.space import Goal
from edgeresnet import Classifier
from edgeresnet.datasets import LabelledImages, read_split
from edgeresnet.doctor import examine
from edgeresnet.errors import EdgeResNetError
from edgeresnet.files import write_text
from edgeresnet.target import Target

BATCH_SIZES: Final = (1, 32, 256)
THREADS: Final = 4
CALLS: Final = 200
# Less than any of our models takes.
TOO_LITTLE_BYTES: Final = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the steps need to know.

    Attributes:
        models: ONNX files of one network, FP32 among them.
        provider: Where they run; ``cpu`` to rehearse.
        test: Test images with labels.
        tuning: Images with labels to tune on, none of them test images.
        seconds: Timed calls of a model at a batch size, at least.
        folder: For the results.
    """

    models: tuple[Path, ...]
    provider: str
    test: LabelledImages
    tuning: LabelledImages
    seconds: float
    folder: Path

    def find(self, precision: str, **target: Any) -> OnnxSubject:
        """The file of a precision, on the provider.

        Raises:
            EdgeResNetError: If it is not among the models.
        """
        subjects = [OnnxSubject.of(path, Target(provider=self.provider, **target)) for path in self.models]
        found = next((subject for subject in subjects if subject.spec.precision == precision), None)
        if found is None:
            raise EdgeResNetError(f"no {precision} model was given")
        return found


def bench(study: Study, precisions: Sequence[str], batch_sizes: Sequence[int] = BATCH_SIZES, **target: Any) -> dict[str, Any]:
    """Models beside the original on the same device, accuracy on all test images; the form of ``edgeresnet bench``."""
    models = [study.find(precision, **target) for precision in precisions]
    on_gpu = study.provider == "cuda"
    original = choose_original(models, None, None, models[0].target, on_gpu=on_gpu).original
    settings = BenchSettings(target=models[0].target, batch_sizes=tuple(batch_sizes), min_time_s=study.seconds, device_only=on_gpu)
    record: dict[str, Any] = json.loads(run_benchmark(models, original, settings, test=study.test).to_json())
    return record


def bench_half(study: Study) -> dict[str, Any]:
    """The original in float16: what it is fair to hold an FP16 file against."""
    device = "cuda" if study.provider == "cuda" else "cpu"
    whole = OriginalSubject.of(None, Target().cores, device=device)
    half = replace(whole, half=True)
    timing, cases = Timings(), [Case(size) for size in BATCH_SIZES]
    measure_latency([(half, timing)], cases, study.test.images, min_time_s=study.seconds)
    if timing.error is not None:
        raise EdgeResNetError(timing.error)
    answers, expected = collect_answers(half, study.test.images), collect_answers(whole, study.test.images)
    return {
        "latency": [asdict(summarize(visits, case, Target().cores, None)) for case, visits in timing.visits.items()],
        "accuracy": asdict(describe_answers(answers, half.spec.labels, study.test, expected, fingerprint=None)),
    }


def call_from_threads(study: Study, precision: str) -> dict[str, Any]:
    """One classifier, called from several threads at once: are all answers bit for bit those of one thread?"""
    images = list(study.test.images[:CALLS])
    with Classifier(study.find(precision).path, provider=study.provider) as classifier:
        alone = np.stack([classifier.predict(image).logits for image in images])
        started = time.perf_counter()
        with ThreadPoolExecutor(THREADS) as pool:
            together = np.stack([prediction.logits for prediction in pool.map(classifier.predict, images)])
        taken = time.perf_counter() - started
    return {"calls": len(images), "threads": THREADS, "equal": bool((alone == together).all()), "images_per_s": len(images) / taken}


def open_with(study: Study, precision: str, **options: str) -> dict[str, Any]:
    """Whether a model opens and runs, and what is said where it does not."""
    subject = study.find(precision, provider_options=options)
    try:
        with closing(subject.load()) as session:
            session.logits(study.test.images[:256])
            return {"opened": True, "provider": session.provider}
    except EdgeResNetError as error:
        return {"opened": False, "error": str(error)}


def find_fastest(study: Study, objective: str) -> dict[str, Any]:
    """What ``edgeresnet tune`` chooses."""
    goal = Goal(objective=objective, budget_s=10 * study.seconds)
    tuning = tune(study.models, goal, providers=[study.provider], data=study.tuning)
    best = tuning.ranked[0]
    subject = best.judged.subject
    return {
        "model": subject.name,
        "target": asdict(subject.target),
        "images_per_call": IMAGES_PER_CALL[objective],
        "p50_ms": best.p50_ms,
        "refused": [refused.subject.name for refused in tuning.refused],
    }


def list_steps(study: Study) -> dict[str, Callable[[], Any]]:
    """The steps by name, what matters most first."""
    graphs = {"provider_options": {"enable_cuda_graph": "1"}} if study.provider == "cuda" else {}
    return {
        "doctor": lambda: [asdict(finding) for finding in examine([study.provider])],
        "bench": lambda: bench(study, ["fp32", "fp16"]),
        "threads": lambda: call_from_threads(study, "fp16"),
        "int8": lambda: open_with(study, "int8"),
        "little-memory": lambda: open_with(study, "fp32", gpu_mem_limit=str(TOO_LITTLE_BYTES)),
        "bench-half": lambda: bench_half(study),
        "bench-graphs": lambda: bench(study, ["fp32", "fp16"], [1], **graphs),
        "bench-exact": lambda: bench(study, ["fp32"], exact=True),
        "tune-latency": lambda: find_fastest(study, "latency"),
        "tune-throughput": lambda: find_fastest(study, "throughput"),
    }


def tabulate(folder: Path) -> str:
    """What the steps in a folder found, as Markdown: milliseconds of a call, in brackets without the way to the device and back."""
    heads = [f"batch {size}, ms" for size in BATCH_SIZES]
    lines = [f"| network | arithmetic | {' | '.join(heads)} | images/s | agreement |", "| --- | --- |" + " ---: |" * (len(heads) + 2)]
    for step, arithmetics in _ARITHMETICS.items():
        path = folder / f"{step}.json"
        found = json.loads(path.read_bytes()).get("result") if path.exists() else None
        for row in found["results"] if found and "results" in found else [found] if found else []:
            name = f"`{row['name']}`" if row.get("precision") and not row["name"].endswith(".safetensors") else "PyTorch"
            is_repeated = step == "bench-graphs" and name == "PyTorch"
            if not is_repeated:
                cells = {latency["batch_size"]: _format_times(latency) for latency in row["latency"]}
                most = max(latency["images_per_s"] for latency in row["latency"])
                agreement = f"{row['accuracy']['agreement_with_original']:.2%}"
                figures = [cells.get(size, "") for size in BATCH_SIZES]
                lines.append(
                    f"| {name} | {arithmetics[row.get('precision', 'fp16')]} | {' | '.join(figures)} | {most:,.0f} | {agreement} |"
                )
    return "\n".join(lines)


# Of each step, what the models of a precision are computed in.
_ARITHMETICS: Final[dict[str, dict[str, str]]] = {
    "bench": {"fp32": "TF32", "fp16": "float16"},
    "bench-half": {"fp16": "float16"},
    "bench-exact": {"fp32": "float32"},
    "bench-graphs": {"fp32": "TF32, CUDA graph", "fp16": "float16, CUDA graph"},
}


def _format_times(latency: dict[str, Any]) -> str:
    device = latency["device_p50_ms"]
    return f"{latency['p50_ms']:.2f}" + (f" ({device:.2f})" if device is not None else "")


def run(study: Study) -> dict[str, str]:
    """Do all steps; returns what failed, with the reason."""
    failed: dict[str, str] = {}
    environment = describe_environment()
    for name, step in list_steps(study).items():
        started = time.perf_counter()
        result: dict[str, Any] = {"step": name, "provider": study.provider, "environment": environment}
        try:
            result["result"] = step()
        except Exception as error:  # noqa: BLE001 - a minute of a GPU is worth more than the first mistake
            failed[name] = result["error"] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        result["seconds"] = round(time.perf_counter() - started, 1)
        write_text(study.folder / f"{name}.json", json.dumps(result, indent=1) + "\n")
        click.echo(f"{name}: {failed.get(name, 'done')} ({result['seconds']} s)", err=True)
    return failed


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), envvar="EDGERESNET_DATA", required=True, help="Labelled images.")
@click.option("--provider", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True, help="cpu: to rehearse.")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many test images instead of all.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Timed calls of a model, at least.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results.")
def command(models: tuple[Path, ...], data: Path, provider: str, limit: int | None, seconds: float, output: Path) -> None:
    """Measure MODELS, one network in several precisions, on a GPU; exit status 1 if a step failed."""
    try:
        size = OnnxSubject.of(models[0], Target()).spec.input
        test, tuning = read_split(data, "test", size=size, limit=limit), read_split(data, "train", size=size, limit=500)
    except EdgeResNetError as error:
        raise click.ClickException(str(error)) from error
    failed = run(Study(models=models, provider=provider, test=test, tuning=tuning, seconds=seconds, folder=output))
    click.echo(tabulate(output))
    if failed:
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    command()
