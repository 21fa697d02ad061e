"""What the figures of accuracy and latency say, where a model differs from its original and batch sizes differ."""

import io
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy import stats

from benchmarks.accuracy import confusion_matrix, measure_accuracy, per_class_accuracy
from benchmarks.bench import BenchSettings, run_benchmark
from benchmarks.environment import describe_environment
from benchmarks.record import Latency, MeasuredAccuracy, Record, Result, Round
from benchmarks.remarks import find_warnings
from benchmarks.report import build_table
from benchmarks.subjects import OnnxSubject, OriginalSubject, check_same_weights, collect_answers
from edgeresnet.datasets import read_split
from edgeresnet.errors import DataError, ModelFormatError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.machine import available_cores
from edgeresnet.session import Session
from edgeresnet.target import Target
from edgeresnet.training.weights import load_weights, save_weights

SIZE = 32
ONE, TWO = Target(threads=1), Target(threads=2)
UNTIMED = BenchSettings(target=ONE, min_time_s=0.0)


@pytest.fixture(scope="module")
def test_split(uneven_folder):
    return read_split(uneven_folder, "test", size=SIZE)


@pytest.fixture(scope="module")
def strangers(weights, tmp_path_factory):
    """Weights of the same network and classes that are others."""
    network = load_weights(weights)
    path = tmp_path_factory.mktemp("strangers") / "other.safetensors"
    save_weights(path, {name: 1.5 * value for name, value in network.model.network.state_dict().items()}, network.spec)
    return path


@pytest.fixture(autouse=True)
def _threads_stay():
    """PyTorch's number of threads is the process's, so put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@dataclass
class Spy:
    """A subject with a spec of a real one that writes down what it is given."""

    spec: object = None
    pause_s: float = 0.0
    slow_calls: int = 0
    name: str = "spy"
    runtime: str = "none"
    provider: str = "none"
    size_bytes: int = 1
    batches: list = field(default_factory=list)

    def load(self):
        self.calls = 0
        return self

    def logits(self, pixels):
        self.calls += 1
        self.batches.append(pixels)
        time.sleep(0.05 if self.calls <= self.slow_calls else self.pause_s)
        return pixels.reshape(len(pixels), -1)[:, :10].astype(np.float32)

    def close(self):
        pass


def count_by_hand(answers, original, data):
    """Every figure of an accuracy report, image by image."""
    confusion = [[0] * 10 for _ in range(10)]
    agreeing = right = 0
    for logits, expected, label in zip(answers, original, data.labels, strict=True):
        answer = max(range(10), key=lambda index: logits[index])
        confusion[label][answer] += 1
        right += answer == label
        agreeing += answer == max(range(10), key=lambda index: expected[index])
    return confusion, right / len(data), agreeing / len(data)


def test_a_report_on_a_model_that_errs_has_the_figures_of_a_count_by_hand(astray, weights, test_split):
    report = measure_accuracy(OnnxSubject.of(astray, ONE), OriginalSubject.of(weights, 1), test_split, batch_size=7)
    answers, original = Session(astray, ONE).logits(test_split.images), load_weights(weights).logits(test_split.images)
    confusion, right, agreement = count_by_hand(answers, original, test_split)
    assert 0.3 < agreement < 0.95, "the fixture must be a model that errs"
    assert report.confusion == confusion
    assert confusion != np.transpose(confusion).tolist()
    assert (report.count, report.top1) == (len(test_split), pytest.approx(right))
    assert report.parity_with_original.agreement == pytest.approx(agreement)
    assert report.parity_with_original.count == len(test_split)
    assert report.parity_with_original.largest_difference == pytest.approx(np.abs(answers - original).max(), rel=1e-4)
    noise, signal = np.square(answers - original).mean(), np.square(original).mean()
    assert report.parity_with_original.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=0.01)
    assert report.per_class == {
        label: pytest.approx(confusion[i][i] / (test_split.labels == i).sum()) for i, label in enumerate(test_split.classes)
    }
    interval = stats.binomtest(round(right * len(test_split)), len(test_split)).proportion_ci(method="wilson")
    assert report.top1_interval95 == (pytest.approx(interval.low, abs=1e-6), pytest.approx(interval.high, abs=1e-6))
    assert (report.model, report.precision, report.provider, report.data) == (
        "astray.onnx",
        "int8",
        "CPUExecutionProvider",
        test_split.name,
    )


def test_a_report_beside_another_networks_weights_is_refused(astray, strangers, test_split):
    with pytest.raises(ModelFormatError, match=r"astray\.onnx: was made from other weights"):
        measure_accuracy(OnnxSubject.of(astray, ONE), OriginalSubject.of(strangers, 1), test_split, batch_size=7)


def test_the_images_of_a_call_are_as_many_as_asked_for(exports, test_split):
    spy = Spy(exports["fp32"].spec)
    measure_accuracy(spy, None, test_split, batch_size=9)
    assert [len(batch) for batch in spy.batches] == [9, 9, len(test_split) - 18]


def test_a_class_without_images_has_no_share():
    confusion = confusion_matrix(np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([0, 0, 2]))
    assert confusion.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert per_class_accuracy(confusion, ("a", "b", "c")) == {"a": 0.5, "b": None, "c": 1.0}


def check_detail(found, answers, original, data):
    """What a record says beside the two shares, counted anew."""
    confusion, _, _ = count_by_hand(answers, original, data)
    assert found.confusion == confusion
    assert found.per_class == {
        name: pytest.approx(row[i] / sum(row)) for i, (name, row) in enumerate(zip(data.classes, confusion, strict=True))
    }
    assert found.largest_difference == pytest.approx(np.abs(answers - original).max(), rel=1e-4)
    assert found.mean_difference == pytest.approx(np.abs(answers - original).mean(), rel=1e-4)
    first, second = original.argmax(1), answers.argmax(1)
    alone = ((first == data.labels) & (second != data.labels)).sum(), ((second == data.labels) & (first != data.labels)).sum()
    assert (found.paired.only_original_right, found.paired.only_model_right) == alone
    expected = stats.binomtest(int(min(alone)), int(sum(alone))).pvalue if sum(alone) else 1.0
    assert found.paired.p_value == pytest.approx(expected)
    differing = np.flatnonzero(first != second)
    assert [entry.index for entry in found.disagreements] == differing.tolist()
    for entry in found.disagreements:
        classes = data.classes[data.labels[entry.index]], data.classes[first[entry.index]], data.classes[second[entry.index]]
        assert (entry.truth, entry.original, entry.model) == classes


def test_a_benchmark_has_every_models_own_accuracy_and_agreement(astray, exports, weights, test_split):
    models = [OnnxSubject.of(path, ONE) for path in (exports["fp32"].path, astray)]
    record = run_benchmark(models, OriginalSubject.of(weights, 1), UNTIMED, test=test_split)
    original = load_weights(weights).logits(test_split.images)
    for result, model in zip(record.results[1:], models, strict=True):
        answers = Session(model.path, ONE).logits(test_split.images)
        _, right, agreement = count_by_hand(answers, original, test_split)
        found = result.accuracy
        assert (found.top1, found.count) == (pytest.approx(right), len(test_split))
        assert (found.agreement_with_original, found.data) == (pytest.approx(agreement), test_split.name)
        check_detail(found, answers, original, test_split)
    _, right, _ = count_by_hand(original, original, test_split)
    assert record.results[0].accuracy.top1 == pytest.approx(right)
    assert record.results[2].accuracy.agreement_with_original < record.results[1].accuracy.agreement_with_original == 1


def test_a_benchmark_without_data_agrees_on_256_synthetic_images(astray, weights):
    _, model = run_benchmark([OnnxSubject.of(astray, TWO)], OriginalSubject.of(weights, 2), replace(UNTIMED, target=TWO)).results
    images = synthetic_images(SIZE, 256)
    expected = (Session(astray, ONE).logits(images).argmax(1) == load_weights(weights).logits(images).argmax(1)).mean()
    assert (model.accuracy.top1, model.accuracy.count, model.accuracy.data) == (None, 256, "synthetic images")
    assert model.accuracy.agreement_with_original == pytest.approx(expected)
    assert 0.3 < expected < 0.95


def test_a_benchmark_of_what_does_not_belong_together_is_refused(exports, weights, strangers, test_split):
    fp32 = OnnxSubject.of(exports["fp32"].path, ONE)
    with pytest.raises(ModelFormatError, match="was made from other weights"):
        run_benchmark([fp32], OriginalSubject.of(strangers, 1), UNTIMED)
    stranger = replace(fp32, spec=replace(fp32.spec, checkpoint_sha256="0" * 64))
    with pytest.raises(ModelFormatError, match="was made from other weights"):
        check_same_weights([fp32, stranger], OriginalSubject.of(weights, 1))
    renamed = replace(fp32, spec=replace(fp32.spec, labels=tuple("abcdefghij")))
    with pytest.raises(DataError, match="classes"):
        run_benchmark([fp32, renamed], None, UNTIMED, test=test_split)


def test_the_settings_in_a_record_are_those_that_it_was_taken_with(exports):
    settings = BenchSettings(target=Target(), batch_sizes=(1, 3), min_time_s=0.0)
    record = run_benchmark([OnnxSubject.of(exports["int8"].path, settings.target)], None, settings)
    cores = available_cores()
    assert (record.settings["threads"], record.settings["batch_sizes"], record.settings["min_time_s"]) == (cores, [1, 3], 0.0)
    assert (record.settings["provider"], record.settings["min_samples"], record.settings["rounds"]) == ("cpu", 64, 3)
    (result,) = record.results
    assert [(latency.batch_size, latency.threads) for latency in result.latency] == [(1, cores), (3, cores)]
    assert (result.accuracy, result.latency[0].speedup_vs_original, result.latency[0].device_p50_ms) == (None, None, None)


def test_subjects_run_with_the_target_and_the_threads_that_they_were_given(exports, weights):
    target = Target(threads=2, streams=1)
    assert OnnxSubject.of(exports["fp32"].path, target).load().target == target
    for threads in (1, 2):
        OriginalSubject.of(weights, threads).load()
        assert torch.get_num_threads() == threads


def test_a_subject_is_closed_after_it_answered(exports):
    closed = []
    spy = Spy(exports["fp32"].spec)
    spy.close = lambda: closed.append(True)
    answers = collect_answers(spy, synthetic_images(SIZE, 3))
    assert (len(answers), closed) == (3, [True])


def test_classes_that_nobody_answers_have_rows_and_columns():
    assert confusion_matrix(np.float32([[1, 0, 0]]), np.array([0])).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def latency(p50, *, p90=None, batch_size=1, device=None, speedup=None):
    return Latency(
        batch_size=batch_size,
        threads=2,
        p50_ms=p50,
        p90_ms=p90 or 1.2 * p50,
        p99_ms=None,
        mean_ms=p50,
        std_ms=0.1,
        samples=64,
        images_per_s=1000 * batch_size / p50,
        speedup_vs_original=speedup,
        device_p50_ms=device,
        samples_ms=[p50],
    )


def result(name, precision, latencies, *, runtime="onnxruntime", provider="CPUExecutionProvider", accuracy=None, arithmetic=None):
    return Result(
        name=name,
        precision=precision,
        runtime=runtime,
        provider=provider,
        placement=None,
        arithmetic=arithmetic,
        size_bytes=12_340_000,
        load_ms=1.0,
        latency=latencies,
        accuracy=accuracy,
    )


def record(*results):
    environment = {"cpu": "Abacus", "instruction_sets": ["beads"], "cores_allowed": 5, "packages": {"torch": "9.9", "onnxruntime": "8.8"}}
    return Record(environment=environment, settings={"threads": 2}, results=list(results))


def rows_of(table):
    """The cells of a table, row by row, as they would be printed."""
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


def test_every_cell_of_the_table_is_its_own_figure():
    accuracy = MeasuredAccuracy(top1=0.9181, count=1234, agreement_with_original=0.9876, data="letters")
    fast = [latency(2.5, p90=2.75, device=1.25, speedup=4.0), latency(50.0, p90=60.0, batch_size=32, device=45.5, speedup=2.0)]
    shown = record(
        result("a.onnx", "int8", fast, accuracy=accuracy), result("b.onnx", "fp16", [latency(1.0)], provider="CUDAExecutionProvider")
    )
    table = build_table(shown)
    assert [str(column.header) for column in table.columns] == [
        *("model", "form", "MB", "batch", "p50 ms", "p90 ms", "device", "img/s", "speed-up", "top-1", "agrees")
    ]
    assert rows_of(table) == [
        ("a.onnx", "int8", "12.3", "1", "2.50", "2.75", "1.25", "400", "4.00x", "91.81%", "98.76%"),
        ("", "", "", "32", "50.00", "60.00", "45.50", "640", "2.00x", "-", "-"),
        ("b.onnx on CUDA", "fp16", "12.3", "1", "1.00", "1.20", "-", "1,000", "-", "-", "-"),
    ]
    caption = str(table.caption).splitlines()
    assert caption[0] == "Abacus (beads), 2 thread(s) of 5 cores, torch 9.9, onnxruntime 8.8"
    assert caption[1].startswith("device: median ms with input and output already on the device")
    assert caption[2] == "answers on 1,234 images: letters"


def test_the_table_fits_a_terminal_of_80_columns():
    accuracy = MeasuredAccuracy(top1=0.9181, count=1234, agreement_with_original=0.9876, data="letters")
    slow = [latency(12345.67, p90=23456.78, batch_size=128, speedup=10.5)]
    console = Console(width=80, file=io.StringIO(), legacy_windows=False)
    console.print(build_table(record(result("a-model-with-a-long-name.onnx", "int8-static", slow, accuracy=accuracy))))
    lines = console.file.getvalue().splitlines()
    (row,) = [line for line in lines if "12345.67" in line]
    assert row.split()[-8:] == ["12.3", "128", "12345.67", "23456.78", "10", "10.50x", "91.81%", "98.76%"]
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("answers on 1,234 images")
    assert row.index("12345.67") + 8 == next(line for line in lines if "p50 ms" in line).index("p50 ms") + 6, (
        "numbers end below their heading"
    )


def test_the_caption_names_what_is_known():
    shown = record(result("m", "fp32", [latency(1.0)]))
    shown.environment.update(instruction_sets=["beads", "rods"], packages={"onnxruntime-gpu": "7.7", "numpy": "2"})
    assert str(build_table(shown).caption) == "Abacus (beads, rods), 2 thread(s) of 5 cores, onnxruntime-gpu 7.7"
    shown.environment.update(instruction_sets=[], packages={})
    assert str(build_table(shown).caption).startswith("Abacus (instruction sets unknown), 2 thread(s)")


def test_a_table_without_device_times_has_no_such_column():
    original = result("w.safetensors", "fp32", [latency(2.0)], runtime="pytorch", provider="PyTorch CPU")
    table = build_table(record(original))
    assert "device" not in [str(column.header) for column in table.columns]
    assert rows_of(table)[0][:2] == ("PyTorch original", "fp32")


def test_the_environment_is_this_processs(monkeypatch):
    monkeypatch.setattr("benchmarks.environment.available_cores", lambda: 77)
    found = describe_environment()
    assert found["cores_allowed"] == 77
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"] == torch.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert "onnxruntime-gpu" not in found["packages"]


def test_fp16_is_advised_for_cuda_and_against_on_a_cpu():
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    against = "m: FP16 is made for GPUs; processors without FP16 arithmetic convert to FP32 and back"
    advice = "FP16 is CUDA's fast format and is not among these models: edgeresnet export --precision fp16"
    for precision, provider, arithmetic, expected in (
        ("fp16", cpu, None, [against]),
        ("fp16", cuda, None, []),
        ("fp32", cpu, None, []),
        ("fp32", cuda, None, [advice]),
        ("fp32", cuda, "in TF32", [advice, "m: in TF32"]),
    ):
        assert find_warnings(record(result("m", precision, [latency(1.0)], provider=provider, arithmetic=arithmetic))) == expected
    alike = [result("f", "fp32", [latency(2.0)]), result("q", "int8", [latency(2.0), latency(9.0, batch_size=4)])]
    assert find_warnings(record(*alike)) == [], "as fast as FP32, and no FP32 to compare with at the other batch size"


@pytest.mark.parametrize("precision", ["int8", "int8-static"])
def test_int8_that_is_slower_than_fp32_at_a_batch_size_is_pointed_out_for_that_one(precision):
    fp32 = result("f.onnx", "fp32", [latency(2.0), latency(30.0, batch_size=8)])
    original = result("w", "fp32", [latency(9.0), latency(9.0, batch_size=8)], runtime="pytorch")
    int8 = result("q.onnx", precision, [latency(1.9), latency(30.5, batch_size=8)])
    assert find_warnings(record(original, fp32, int8)) == ["q.onnx, batch 8: slower than FP32 here, 30.50 against 30.00 ms"]
    assert find_warnings(record(fp32, replace(int8, precision="int8-stock"))) == []
    other_threads = replace(int8, latency=[replace(latency(3.0), threads=1)])
    assert find_warnings(record(fp32, other_threads)) == []


def test_a_run_is_unstable_from_half_as_long_again():
    assert find_warnings(record(result("f", "fp32", [latency(2.0, p90=3.0)]))) == []
    assert find_warnings(record(result("f", "fp32", [latency(2.0, p90=3.1)]))) == [
        "f, batch 1: unstable, p90 is 1.6x the median; machine busy?"
    ]


def visited(doubts, times):
    """Rounds of the same calls, some of them not believed."""
    rounds = [Round(samples=len(times), started_s=i, cores_used=1, waited=0, others=0, stolen=0, doubt=d) for i, d in enumerate(doubts)]
    return {"rounds": rounds, "samples_ms": [value for _ in doubts for value in times]}


def test_what_is_not_believed_is_one_warning_for_all_rows_with_the_reason_and_the_remedy():
    rows = [result(name, "fp32", [replace(latency(1.0), doubt="the machine was busy")]) for name in ("a", "b")]
    (warning,) = find_warnings(record(*rows))
    assert warning.startswith("a, batch 1; b, batch 1: not to be believed, so no speed-up is given: the machine was busy; fix: ")


def test_rounds_that_are_left_out_are_counted():
    some = replace(latency(1.0), **visited(["busy", None, None, "busy"], [1.0, 1.0]))
    assert find_warnings(record(result("a", "fp32", [some]))) == ["2 of 4 rounds are left out, since something else had the cores"]


def test_two_levels_and_a_large_deviation_are_pointed_out():
    two = replace(latency(2.3), **visited([None], [2.3, 2.31, 2.32] * 20 + [3.6, 3.61] * 10))
    (warning,) = find_warnings(record(result("a", "fp32", [two])))
    assert "a, batch 1: calls take 2.31 or 3.60 ms, two levels" in warning
    wide = replace(latency(1.0), std_ms=0.2, samples_ms=[1.0, 1.0, 7.0])
    assert find_warnings(record(result("a", "fp32", [wide]))) == [
        "a, batch 1: times deviate by 20% of their mean, the slowest is 7.0x the median"
    ]
    assert find_warnings(record(result("a", "fp32", [replace(latency(1.0), std_ms=0.1, samples_ms=[1.0, 7.0])]))) == []


def test_medians_that_are_not_known_to_one_percent_say_how_long_it_would_take():
    rounds = visited([None] * 3, [1.0])
    sure = replace(latency(1.0), p50_interval95=(0.991, 1.009), **rounds)
    unsure = replace(latency(1.0), p50_interval95=(0.97, 1.03), **rounds)
    assert find_warnings(record(result("a", "fp32", [sure]))) == []
    (warning,) = find_warnings(record(result("a", "fp32", [unsure]), result("b", "fp32", [sure])))
    assert warning.startswith("1 median(s) are known to no better than 1 %, a, batch 1 to 3.0%; fix: ")
    assert "about 9 times as long" in warning


def test_a_machine_that_was_slowed_down_is_pointed_out():
    cool = {"throttled": 3, "governor": "performance", "frequency_mhz": 3000.0}
    shown = record(result("a", "fp32", [latency(1.0)]))
    shown.environment.update(before=cool, after=cool)
    assert find_warnings(shown) == []
    shown.environment["after"] = {"throttled": 8, "governor": "performance", "frequency_mhz": 2000.0}
    throttled, fell = find_warnings(shown)
    assert "slowed down for its temperature 5 times" in throttled
    assert "fell from 3,000 to 2,000 MHz" in fell
    shown.environment.update(before={**cool, "governor": "powersave"}, after=cool)
    (governor,) = find_warnings(shown)
    assert "the governor 'powersave'; fix: " in governor
