import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.accuracy import measure_accuracy
from benchmarks.bench import BenchSettings, run_benchmark
from benchmarks.report import build_table
from benchmarks.subjects import OnnxSubject, OriginalSubject, check_same_weights
from edgeresnet.cli.eval import _show_extremes
from edgeresnet.datasets import read_split
from edgeresnet.errors import ModelFormatError
from edgeresnet.preprocessing import Changes
from edgeresnet.session import Session
from edgeresnet.target import Target
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.networks import find_network
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights, save_weights
from exporters.export import export_network


@pytest.fixture(scope="module")
def record(exports, weights, labelled_folder):
    models = [OnnxSubject.of(exports[p].path, Target(threads=2)) for p in ("fp32", "int8")]
    settings = BenchSettings(target=Target(threads=2), batch_sizes=(1, 2), min_time_s=0.0, device_only=True)
    return run_benchmark(models, OriginalSubject.of(weights, 2), settings, test=read_split(labelled_folder, "test"))


def test_the_record_keeps_the_contract(record, exports):
    document = json.loads(record.to_json())
    assert document["schema"] == "edgeresnet.bench/1"
    assert list(document) == ["schema", "environment", "settings", "results", "interrupted"]
    original, fp32, int8 = document["results"]
    assert [r["runtime"] for r in document["results"]] == ["pytorch", "onnxruntime", "onnxruntime"]
    assert (fp32["provider"], int8["precision"]) == ("CPUExecutionProvider", "int8")
    assert int8["size_bytes"] == exports["int8"].path.stat().st_size
    for result in document["results"]:
        assert result["load_ms"] > 0
        assert [entry["batch_size"] for entry in result["latency"]] == [1, 2]
        for entry, base in zip(result["latency"], original["latency"], strict=True):
            assert len(entry["samples_ms"]) == sum(visit["samples"] for visit in entry["rounds"]) >= 64
            assert entry["threads"] == 2
            if entry["doubt"] is None and all(visit["doubt"] is None for visit in (*entry["rounds"], *base["rounds"])):
                assert entry["speedup_vs_original"] == pytest.approx(base["p50_ms"] / entry["p50_ms"])
            else:
                assert entry["speedup_vs_original"] is None or entry["doubt"] is None
        assert result["accuracy"]["count"] == 30
    for entry in original["latency"]:
        assert entry["device_p50_ms"] is None
    for entry in fp32["latency"]:
        assert 0.2 < entry["device_p50_ms"] / entry["p50_ms"] < 5
    assert (original["placement"], list(fp32["placement"])) == (None, ["CPUExecutionProvider"])
    assert original["accuracy"]["agreement_with_original"] == fp32["accuracy"]["agreement_with_original"] == 1.0
    assert original["accuracy"]["top1"] == fp32["accuracy"]["top1"]
    assert document["environment"]["cores_allowed"] >= 1
    assert "onnxruntime" in document["environment"]["packages"]


def test_the_table_has_a_row_for_every_model_and_batch_size(record):
    table = build_table(record)
    assert table.row_count == 6
    assert record.environment["cpu"] in str(table.caption)


def test_agreement_is_measured_on_synthetic_images_without_data(exports, weights):
    models = [OnnxSubject.of(exports["fp32"].path, Target(threads=2))]
    settings = BenchSettings(target=Target(threads=2), min_time_s=0.0)
    _, fp32 = run_benchmark(models, OriginalSubject.of(weights, 2), settings).results
    assert (fp32.accuracy.top1, fp32.accuracy.agreement_with_original, fp32.accuracy.data) == (None, 1.0, "synthetic images")


def test_a_model_is_not_compared_with_another_networks_original(exports, tmp_path):
    other = TrainingState.new(TrainingConfig(seed=5), exports["fp32"].spec.labels, torch.device("cpu"))
    save_weights(tmp_path / "other.safetensors", other.network.state_dict(), exports["fp32"].spec)
    with pytest.raises(ModelFormatError, match="made from other weights"):
        check_same_weights([OnnxSubject.of(exports["fp32"].path, Target(threads=1))], OriginalSubject.of(tmp_path / "other.safetensors", 1))


def test_the_accuracy_report_counts_every_image_once(exports, weights, labelled_folder):
    test = read_split(labelled_folder, "test")
    report = measure_accuracy(OnnxSubject.of(exports["fp32"].path, Target(threads=2)), OriginalSubject.of(weights, 2), test, batch_size=7)
    predicted = Session(exports["fp32"].path).logits(test.images).argmax(1)
    expected = np.zeros((10, 10), int)
    for truth, answer in zip(test.labels, predicted, strict=True):
        expected[truth, answer] += 1
    assert report.confusion == expected.tolist()
    assert report.top1 == pytest.approx(expected.trace() / 30)
    assert report.per_class == {label: expected[i, i] / 3 for i, label in enumerate(test.classes)}
    assert report.parity_with_original.agreement == 1.0
    assert load_weights(weights).spec.labels == tuple(report.per_class)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Models of a network that is not ours, six classes, in two precisions, and the state dictionary that they were made from."""
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(4)
    network = find_network("timm:test_resnet").build(6)
    torch.save(network.state_dict(), folder / "theirs.pt")
    trained = load_weights(folder / "theirs.pt", "timm:test_resnet", changes=Changes(size=(32, 48), fit="stretch"))
    return [exported.path for exported in export_network(trained, ("fp32", "int8"), folder, min_db=5)], folder / "theirs.pt"


def test_models_of_another_network_are_measured_beside_its_weights(foreign, run_cli):
    (fp32, int8), weights = foreign
    options = ("--min-time", 0, "--threads", 1, "--format", "json")
    record = json.loads(run_cli("bench", fp32, int8, *options, "--original", weights).out)
    original, first, second = record["results"]
    assert (original["runtime"], original["original"], original["name"]) == ("pytorch", True, "theirs.pt")
    assert first["accuracy"]["agreement_with_original"] == 1.0
    assert not first["original"]
    assert second["latency"][0]["doubt"] is not None or second["latency"][0]["speedup_vs_original"] > 0


def test_without_weights_the_fp32_file_is_what_others_are_measured_against(foreign, run_cli):
    (fp32, int8), _ = foreign
    options = ("--min-time", 0, "--threads", 1)
    result = run_cli("bench", int8, fp32, *options, "--format", "json")
    assert f"{fp32.name} is what the others are compared with" in result.err
    rows = json.loads(result.out)["results"]
    assert [(row["name"], row["original"], row["runtime"]) for row in rows] == [
        (fp32.name, True, "onnxruntime"),
        (int8.name, False, "onnxruntime"),
    ]
    assert rows[0]["latency"][0]["doubt"] is not None or rows[0]["latency"][0]["speedup_vs_original"] == 1.0
    assert 0 < rows[1]["accuracy"]["agreement_with_original"] <= 1
    named = run_cli("bench", int8, *options, "--original", fp32)
    assert f"{fp32.name} (original)" in " ".join(named.out.split())
    alone = run_cli("bench", int8, *options, "--format", "json")
    assert "is not at hand, so nothing is compared" in alone.err
    (row,) = json.loads(alone.out)["results"]
    assert (row["original"], row["accuracy"], row["latency"][0]["speedup_vs_original"]) == (False, None, None)


def test_what_is_not_the_original_is_refused(foreign, exports, weights, run_cli):
    (fp32, _), theirs = foreign
    for model, original in ((fp32, weights), (exports["fp32"].path, theirs), (fp32, exports["fp32"].path)):
        result = run_cli("bench", model, "--original", original, "--min-time", 0)
        assert (result.status, result.err.count("error: ")) == (1, 1)
        assert "made from" in result.err
    named = run_cli("bench", fp32, "--original", theirs, "--network", "timm:test_vit", "--min-time", 0)
    assert (named.status, "holds 'timm:test_resnet', not 'timm:test_vit'" in named.err) == (1, True)


def test_eval_reports_top5_and_classes_in_the_models_order(foreign, run_cli, tmp_path):
    """Folders are sorted by name, labels need not be."""
    (fp32, _), weights = foreign
    session = Session(fp32)
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 256, (12, 32, 48, 3), dtype=np.uint8)
    names = [f"name {5 - number}" for number in range(6)]
    trained = load_weights(weights, "timm:test_resnet", labels=tuple(names), changes=Changes(size=(32, 48), fit="stretch"))
    (renamed,) = export_network(trained, ("fp32",), tmp_path)
    for number, image in enumerate(pixels):
        folder = tmp_path / "data" / "test" / names[number % 6]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    report = json.loads(run_cli("eval", renamed.path, "--data", tmp_path / "data", "--original", weights, "--format", "json").out)
    logits = session.logits(pixels)
    truth = np.arange(12) % 6
    assert list(report["per_class"]) == names
    assert report["top1"] == pytest.approx((logits.argmax(1) == truth).mean())
    assert report["top5"] == pytest.approx((np.argsort(-logits)[:, :5] == truth[:, None]).any(1).mean())
    assert (report["original"], report["parity_with_original"]["agreement"]) == ("theirs.pt", 1.0)
    assert "top-5" in run_cli("eval", renamed.path, "--data", tmp_path / "data").out


def test_of_many_classes_the_extremes_are_shown(capsys):
    labels = [f"class {number}" for number in range(1000)]
    confusion = np.zeros((1000, 1000), int)
    confusion[np.arange(500), np.arange(500)] = 4
    confusion[7, 9] = 36
    confusion[8, :] = 0
    report = SimpleNamespace(
        per_class={label: confusion[i, i] / total if (total := confusion[i].sum()) else None for i, label in enumerate(labels)},
        confusion=confusion.tolist(),
    )
    _show_extremes(report)
    captured = capsys.readouterr()
    lines = [" ".join(line.split()) for line in captured.out.splitlines()]
    assert "class 7 10.0% 40" in lines
    assert "class 7 class 9 36" in lines
    assert len(captured.out.splitlines()) < 60
    assert "501 of 1000 classes have no images here" in captured.err
