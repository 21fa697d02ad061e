"""A record with everything that one can hold, made up and the same every time."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from benchmarks.intervals import estimate_median, estimate_paired_ratio, mcnemar, wilson_interval
from benchmarks.loads import LayerTime, Minute, Offline, Server, ServerTrial
from benchmarks.record import Disagreement, Latency, MeasuredAccuracy, PairedTest, Record, Result, Round, split_rounds

ROUNDS = 8
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGES = 2000
MODELS = {  # name: precision, runtime, ms for one image with two threads, size, share of answers that differ from the original's
    "network.safetensors": ("fp32", "pytorch", 9.0, 22_376_748, 0.0),
    "network-fp32.onnx": ("fp32", "onnxruntime", 3.2, 22_360_000, 0.0),
    "network-int8.onnx": ("int8", "onnxruntime", 1.5, 5_760_000, 0.004),
}


@dataclass(frozen=True)
class Made:
    """How a record is made up.

    Attributes:
        seed: Of the noise.
        slower: How many times slower a model is, by name.
        doubted: Names of the models whose single images are doubted.
        answers: Seed of the answers that differ from the original's.
        conditions: Batch sizes and threads.
        samples: Calls of a round.
    """

    seed: int = 0
    slower: tuple[tuple[str, float], ...] = ()
    doubted: tuple[str, ...] = ()
    answers: int = 0
    conditions: tuple[tuple[int, int], ...] = ((1, 1), (1, 2), (8, 2), (32, 2))
    samples: int = 100


def make(**how):
    """Make up a record; ``how`` are the fields of ``Made``."""
    made = Made(**how)
    truth = np.random.default_rng(99).integers(0, len(CLASSES), IMAGES)
    original_answers = _stray(truth, 0.08, seed=7)
    results: list[Result] = []
    for name, (precision, runtime, base_ms, size, straying) in MODELS.items():
        original = results[0] if results else None
        answers = _stray(original_answers, straying, seed=made.answers + 11)
        results.append(
            Result(
                name=name,
                precision=precision,
                runtime=runtime,
                original=runtime == "pytorch",
                provider="PyTorch CPU" if runtime == "pytorch" else "CPUExecutionProvider",
                placement=None if runtime == "pytorch" else {"CPUExecutionProvider": 52},
                arithmetic=None,
                size_bytes=size,
                load_ms=base_ms * 20,
                latency=[
                    _make_latency(made, name, base_ms, condition, original.latency[i] if original else None)
                    for i, condition in enumerate(made.conditions)
                ],
                accuracy=_make_accuracy(truth, original_answers, answers, straying),
                sha256=f"{size:064x}",
                checkpoint_sha256="c0ffee" + "0" * 58,
                peak_memory_bytes=60_000_000 + 4 * size,
                layers=None if runtime == "pytorch" else _make_layers(base_ms),
                offline=Offline(batch_size=64, images_per_s=1900 / base_ms, interval95=(1860 / base_ms, 1930 / base_ms)),
                server=_make_server(base_ms),
                sustained=_make_minutes(base_ms),
            )
        )
    return Record(environment=_environment(), settings=_settings(made), results=results)


def _make_latency(made, name, base_ms, condition, original):
    batch, threads = condition
    rng = np.random.default_rng([made.seed, batch, threads, len(name)])
    typical = base_ms * dict(made.slower).get(name, 1.0) * (1.7 if threads == 1 else 1.0) * batch**0.9
    doubted = name in made.doubted and batch == 1
    rounds, samples = [], []
    for i in range(ROUNDS):
        drift = 1 + 0.004 * i + 0.01 * rng.standard_normal()
        disturbed = i == 3 or doubted
        times = typical * drift * (2.5 if disturbed else 1.0) * (1 + 0.02 * rng.gamma(2, 1, made.samples))
        samples += [round(float(t), 4) for t in times]
        rounds.append(
            Round(
                samples=made.samples,
                started_s=round(2.0 * (i * len(MODELS) + list(MODELS).index(name)) + 0.1 * batch, 3),
                cores_used=1.1 if disturbed else 1.97,
                waited=0.4 if disturbed else 0.01,
                others=0.9 if disturbed else 0.02,
                stolen=0.0,
                doubt="other processes kept 0.9 of 2 cores busy" if disturbed else None,
            )
        )
    believed = split_rounds(samples, rounds, only_believed=not doubted)
    times = np.concatenate(list(believed.values()))
    median = estimate_median(believed)
    ratio = estimate_paired_ratio(original.believed_rounds, believed) if original is not None and not doubted else None
    return Latency(
        batch_size=batch,
        threads=threads,
        p50_ms=median.value,
        p50_interval95=median.interval,
        p90_ms=float(np.percentile(times, 90)) if len(times) >= 64 else None,
        p99_ms=float(np.percentile(times, 99)) if len(times) >= 662 else None,
        mean_ms=float(times.mean()),
        std_ms=float(times.std()),
        samples=len(times),
        images_per_s=1000 * batch / median.value,
        speedup_vs_original=ratio.value if ratio else None,
        speedup_interval95=ratio.interval if ratio else None,
        device_p50_ms=None,
        samples_ms=samples,
        doubt="other processes kept its cores busy in 8 of 8 rounds" if doubted else None,
        warmup_calls=40,
        rounds=rounds,
    )


def _stray(answers, share, seed):
    rng = np.random.default_rng(seed)
    strayed = answers.copy()
    chosen = rng.permutation(len(answers))[: round(share * len(answers))]
    strayed[chosen] = (answers[chosen] + rng.integers(1, len(CLASSES), len(chosen))) % len(CLASSES)
    return strayed


def _make_accuracy(truth, original, answers, straying):
    right, original_right = answers == truth, original == truth
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (truth, answers), 1)
    only_original, only_model = int((original_right & ~right).sum()), int((right & ~original_right).sum())
    top1 = float(right.mean())
    return MeasuredAccuracy(
        top1=top1,
        count=len(truth),
        agreement_with_original=float((answers == original).mean()),
        data="CIFAR-10 test set, JPEG copy",
        data_sha256="da7a" * 16,
        top1_interval95=wilson_interval(top1, len(truth)),
        top5=0.99,
        per_class={name: float(confusion[i, i] / confusion[i].sum()) for i, name in enumerate(CLASSES)},
        confusion=confusion.tolist(),
        mean_difference=0.1 * straying,
        largest_difference=8 * straying,
        sqnr_db=32.5 if straying else None,
        paired=PairedTest(only_original_right=only_original, only_model_right=only_model, p_value=mcnemar(only_original, only_model)),
        disagreements=[
            Disagreement(index=int(i), truth=CLASSES[truth[i]], original=CLASSES[original[i]], model=CLASSES[answers[i]])
            for i in np.flatnonzero(answers != original)
        ],
        corrupted={"noise": top1 - 0.21 - straying, "blur": top1 - 0.12, "JPEG": top1 - 0.06 - straying / 2},
    )


def _make_layers(base_ms):
    names = ("layer4.1.conv2", "layer3.0.conv1", "layer2.1.conv1", "layer1.0.conv2", "conv1", "fc")
    shares = (0.34, 0.26, 0.18, 0.12, 0.07, 0.03)
    return [
        LayerTime(layer=name, operators=["Conv", "Relu"] if "conv" in name else ["Gemm"], p50_ms=share * base_ms, share=share)
        for name, share in zip(names, shares, strict=True)
    ]


def _make_server(base_ms):
    most = round(700 / base_ms)
    trials = [
        ServerTrial(rate_per_s=most * part, p99_ms=base_ms * (1.5 + 9 * part**4), samples=2000, held=part < 1.01)
        for part in (0.25, 0.5, 1.0, 1.2, 1.1)
    ]
    return Server(bound_ms=10.6 * base_ms, images_per_s=most, trials=trials)


def _make_minutes(base_ms):
    return [
        Minute(
            p50_ms=base_ms * (1 + 0.25 * (1 - float(np.exp(-i / 3)))),
            samples=9000,
            temperature_c=round(45 + 30 * (1 - float(np.exp(-i / 2))), 1),
            frequency_mhz=round(2400 - 400 * (1 - np.exp(-i / 3))),
            doubt="other processes kept 1.0 of 2 cores busy" if i == 6 else None,
        )
        for i in range(10)
    ]


def _environment():
    moment = {"load_average": [0.1, 0.2, 0.3], "frequency_mhz": 2400, "governor": "performance", "temperature_c": 44.0}
    return {
        "cpu": "Abacus 3000",
        "instruction_sets": ["avx2", "fma", "avx512_vnni"],
        "cores_online": 4,
        "cores_allowed": 2,
        "system": "Linux-6.1",
        "python": "3.11.7",
        "packages": {"edgeresnet": "0.1.0", "onnxruntime": "1.32.0", "torch": "2.14.1", "numpy": "2.4.6"},
        "before": moment,
        "after": {**moment, "load_average": [1.9, 0.9, 0.4], "temperature_c": 71.5},
    }


def _settings(made):
    return {
        "provider": "cpu",
        "threads": 2,
        "streams": None,
        "batch_sizes": sorted({batch for batch, _ in made.conditions}),
        "min_time_s": 4.0,
        "rounds": ROUNDS,
    }


def change_result(record, model, **fields):
    """The record with fields of the model of that name as given."""
    results = [replace(result, **fields) if result.name == model else result for result in record.results]
    return replace(record, results=results)


@pytest.fixture(scope="session")
def make_record():
    """Makes up records: ``make_record(seed=..., slower=..., doubted=...)``."""
    return make


@pytest.fixture(scope="session")
def with_result():
    """Changes fields of one model's result in a record."""
    return change_result
