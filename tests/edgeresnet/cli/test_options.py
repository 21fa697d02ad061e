"""What arrives of every option of the commands: at the session, the goal, the reader or the work that a command calls."""

import csv
import dataclasses
import io
import json

import click
import numpy as np
import onnx
import pytest
from PIL import Image

from benchmarks.scenarios import Plan
from edgeresnet.cifar10 import CIFAR10_LABELS
from edgeresnet.classifier import bundled_model
from edgeresnet.cli import COMMANDS, cli
from edgeresnet.datasets import LabelledImages, count_by_class, read_split
from edgeresnet.session import Session
from edgeresnet.target import Target
from edgeresnet.training.weights import bundled_weights

SIZE = 32
TEST_IMAGES = 23  # of the uneven folder: 1 + i % 4 of the i-th of 10 classes
TRAINING_IMAGES = 40


def fill(arguments, files):
    return [argument.format(**files) if isinstance(argument, str) else argument for argument in arguments]


TARGET_OPTIONS = {
    "--provider": (("--provider", "openvino"), Target(provider="openvino")),
    "--threads": (("--threads", 3), Target(threads=3)),
    "--exact": (("--exact",), Target(exact=True)),
    "--force": (("--force",), Target(force=True)),
    "--provider-option": (
        ("--provider", "cuda", "--provider-option", "device_id=2", "--provider-option", "gpu_mem_limit=77"),
        Target(provider="cuda", provider_options={"device_id": "2", "gpu_mem_limit": "77"}),
    ),
    "--profile": (("--profile", "{profile}"), Target(threads=2, streams=2, micro_batch=5)),
}
COMMANDS_WITH_TARGET = {
    "predict": (("predict", "{image}"), ("--model", "{fp32}")),
    "eval": (("eval", "--data", "{data}", "--no-original"), ("{fp32}",)),
    "bench": (("bench", "--no-original"), ("{fp32}",)),
    "verify": (("verify",), ("{fp32}",)),
}


@pytest.mark.parametrize("option", [None, *TARGET_OPTIONS])
@pytest.mark.parametrize("command", COMMANDS_WITH_TARGET)
def test_where_and_how_to_run_arrives_at_the_session(run_cli, door, files, command, option):
    arguments, model = COMMANDS_WITH_TARGET[command]
    given, expected = TARGET_OPTIONS[option] if option else ((), Target())
    opening = door("edgeresnet.session.open_model")
    result = run_cli(*fill((*arguments, *given, *(() if option == "--profile" else model)), files))
    assert (result.status, result.err) == (1, "error: arrived\n")
    content, provider, settings, precision = opening.arrived[0]
    assert (provider, settings) == (expected.provider, expected.settings)
    assert (content, precision) == (files["fp32"].read_bytes(), "fp32")


# --- predict


def test_predict_takes_the_bundled_model_or_the_one_that_is_named(run_cli, door, files):
    for given, expected in (((), bundled_model()), (("--model", files["fp32"]), files["fp32"])):
        opening = door("edgeresnet.session.open_model")
        run_cli("predict", files["image"], *given)
        assert opening.arrived[0][0] == expected.read_bytes()


@pytest.mark.parametrize(("given", "count"), [((), 1), (("--top", 2), 2), (("--top", 4), 4), (("--top", 99), 10)])
def test_predict_names_as_many_classes_as_asked_for(run_cli, files, given, count):
    (row,) = json.loads(run_cli("predict", files["image"], "--model", files["fp32"], *given, "--format", "json").out)
    pixels = np.asarray(Image.open(files["image"]))[None]
    logits = Session(files["fp32"]).logits(pixels)[0].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-logits)[:count]
    assert [entry["label"] for entry in row["top"]] == [CIFAR10_LABELS[i] for i in best]
    assert [entry["score"] for entry in row["top"]] == pytest.approx(shares[best], abs=1e-5)


# --- eval


def test_eval_reads_as_many_test_images_as_asked_for(run_cli, door, files):
    for given, count in (((), TEST_IMAGES), (("--limit", 13), 13)):
        measuring = door("benchmarks.accuracy.measure_accuracy")
        run_cli("eval", files["int8"], "--data", files["data"], "--original", files["weights"], "--batch-size", 9, "--threads", 3, *given)
        (model, original, images), named = measuring.arrived
        expected = read_split(files["data"], "test", size=SIZE, limit=count)
        np.testing.assert_array_equal(images.images, expected.images)
        assert (model.path, original.path, original.threads, named["batch_size"]) == (files["int8"], files["weights"], 3, 9)
        assert model.target == Target(threads=3)


def test_eval_compares_with_the_bundled_weights_unless_told_otherwise(run_cli, door, files):
    measuring = door("benchmarks.accuracy.measure_accuracy")
    run_cli("eval", bundled_model(), "--data", files["data"])
    (_, original, _), named = measuring.arrived
    assert (original.path, original.threads, named["batch_size"]) == (bundled_weights(), Target().cores, 128)
    measuring = door("benchmarks.accuracy.measure_accuracy")
    run_cli("eval", files["int8"], "--data", files["data"], "--no-original")
    assert measuring.arrived[0][1] is None


def test_data_comes_from_the_environment_unless_it_is_named(run_cli, door, files, monkeypatch):
    monkeypatch.setenv("EDGERESNET_DATA", str(files["data"]))
    for command in (("eval", files["fp32"], "--no-original"), ("train",), ("bench", "--no-original"), ("export", files["weights"])):
        reading = door("edgeresnet.datasets.read_split")
        training = door("edgeresnet.training.run.run_training")
        assert run_cli(*command).status == 1
        (call,) = reading.calls or training.calls
        assert files["data"] in call[0]


# --- bench


def bench(run_cli, door, *arguments):
    running = door("benchmarks.bench.run_benchmark")
    result = run_cli("bench", *arguments)
    assert result.err == "error: arrived\n"
    return running.arrived


def test_bench_measures_what_was_asked_for(run_cli, door, files):
    settings = ("--min-time", 0.5, "--batch-size", 4, "--batch-size", 1, "--batch-size", 4, "--threads", 1)
    original = ("--original", files["weights"])
    (models, found, how), named = bench(
        run_cli, door, files["int8"], files["fp32"], *settings, *original, "--data", files["data"], "--limit", 11
    )
    assert [model.path for model in models] == [files["int8"], files["fp32"]]
    assert [model.target for model in models] == [Target(threads=1)] * 2
    assert (found.path, found.threads) == (files["weights"], 1)
    assert (how.batch_sizes, how.min_time_s, how.target, how.device_only) == ((4, 1), 0.5, Target(threads=1), False)
    np.testing.assert_array_equal(named["test"].images, read_split(files["data"], "test", size=SIZE, limit=11).images)


def test_bench_has_usual_settings(run_cli, door, files):
    (models, original, how), named = bench(run_cli, door)
    assert [model.path for model in models] == [bundled_model()]
    assert (original.path, original.threads) == (bundled_weights(), Target().cores)
    assert (how.batch_sizes, how.min_time_s, how.target) == ((1,), 4.0, Target())
    assert named["test"] is None
    (models, original, how), _ = bench(run_cli, door, "--no-original", "--profile", files["profile"])
    assert ([model.path.resolve() for model in models], original) == ([files["fp32"].resolve()], None)
    assert models[0].target == how.target == Target(threads=2, streams=2, micro_batch=5)


def test_bench_times_runs_on_the_device_where_the_model_is_on_cuda(run_cli, door, files, monkeypatch):
    monkeypatch.setattr("edgeresnet.cli.bench._try_all", lambda subjects: ({}, True))
    (_, _, how), _ = bench(run_cli, door, files["fp32"], "--no-original", "--provider", "cuda")
    assert how.device_only


def test_bench_measures_further_loads_where_asked(run_cli, door, files):
    loads = ("--scenario", "server", "--bound", 25, "--scenario", "sustained", "--minutes", 7, "--operators")
    more = ("--thread-sweep", "--threads", 6, "--corrupt", 9, "--data", files["data"])
    (_, _, how), _ = bench(run_cli, door, files["int8"], "--no-original", *loads, *more)
    assert how.plan == Plan(scenarios=("server", "sustained"), bound_ms=25.0, minutes=7, layers=True)
    assert (how.threads, how.corrupted) == ((1, 2, 4, 6), 9)
    (_, _, how), _ = bench(run_cli, door, files["int8"], "--no-original")
    assert (how.plan, how.threads, how.corrupted) == (Plan(), None, 0)
    for lacking in (("--scenario", "server"), ("--bound", 3), ("--corrupt", 3)):
        result = run_cli("bench", files["int8"], "--no-original", *lacking)
        assert (result.status, result.err.count("error: ")) == (2, 1)


def test_a_model_that_fails_is_a_row_and_the_exit_status_tells(run_cli, files, tmp_path):
    broken = tmp_path / "broken.onnx"
    model = onnx.load(files["fp32"])
    next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "nothing"
    onnx.save(model, broken)
    options = ("--no-original", "--min-time", 0, "--threads", 1)
    result = run_cli("bench", broken, files["int8"], *options, "--format", "json", "--output", files["out"])
    assert result.status == 1
    assert f"error: {broken.name}: " in result.err
    failed, measured = json.loads(result.out)["results"]
    assert (failed["latency"], failed["accuracy"], failed["load_ms"], failed["provider"]) == ([], None, None, "")
    assert "cannot load it" in failed["error"]
    assert (len(measured["latency"]), measured["error"]) == (1, None)
    assert json.loads(files["out"].read_text())["results"] == [failed, measured]
    alone = run_cli("bench", broken, *options)
    assert (alone.status, alone.out, alone.err.count("error: ")) == (1, "", 1)


def test_a_place_that_cannot_be_written_is_found_out_before_anything_is_measured(run_cli, door, files, tmp_path):
    (tmp_path / "file").write_text("")
    for option in ("--output", "--html"):
        running = door("benchmarks.bench.run_benchmark")
        result = run_cli("bench", files["int8"], "--no-original", option, tmp_path / "file" / "result")
        assert (result.status, running.calls) == (1, [])
        assert str(tmp_path / "file") in result.err


def test_bench_writes_other_forms_of_the_same_figures(run_cli, files, tmp_path):
    arguments = ("bench", files["int8"], "--no-original", "--min-time", 0, "--threads", 1)
    result = run_cli(*arguments, "--format", "csv", "--html", tmp_path / "page.html", "--output", files["out"])
    (row,) = csv.DictReader(io.StringIO(result.out))
    (measured,) = json.loads(files["out"].read_text())["results"]
    assert (row["name"], float(row["p50_ms"])) == (files["int8"].name, measured["latency"][0]["p50_ms"])
    assert files["int8"].name in (tmp_path / "page.html").read_text()
    assert run_cli(*arguments, "--format", "markdown", "--operators").out.count("| --- |") >= 2


def test_bench_fetches_data_where_there_is_none(run_cli, door, files, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    fetching = door("edgeresnet.training.download.download_cifar10", lambda folder: None)
    reading = door("edgeresnet.datasets.read_split")
    run_cli("bench", files["fp32"], "--no-original", "--download", "--limit", 5)
    assert fetching.arrived[0] == (tmp_path / ".cache" / "edgeresnet",)
    assert (reading.arrived[0], reading.named["limit"]) == ((tmp_path / ".cache" / "edgeresnet", "test"), 5)
    fetching = door("edgeresnet.training.download.download_cifar10", lambda folder: None)
    run_cli("bench", files["fp32"], "--no-original", "--download", "--data", files["data"])
    assert not fetching.calls


def test_a_record_is_printed_and_saved_as_it_is(run_cli, files):
    arguments = ("bench", files["int8"], "--no-original", "--min-time", 0, "--threads", 1, "--output", files["out"])
    printed = json.loads(run_cli(*arguments, "--format", "json").out)
    assert printed == json.loads(files["out"].read_text())
    assert list(printed) == ["schema", "environment", "settings", "results", "interrupted"]
    assert printed["settings"]["batch_sizes"] == [1]


# --- tune


def tune(run_cli, door, *arguments):
    tuning = door("benchmarks.tuning.result.tune")
    result = run_cli("tune", *arguments)
    assert result.err == "error: arrived\n"
    return tuning.arrived


def test_tune_seeks_what_was_asked_for(run_cli, door, files):
    goal = ("--for", "throughput", "--min-agreement", 93, "--max-drop", 0.5, "--budget", 12, "--exhaustive")
    where = ("--provider", "cpu", "--provider", "openvino", "--threads", 3)
    (models, found), named = tune(run_cli, door, files["int8"], files["fp32"], *goal, *where, "--data", files["data"], "--limit", 15)
    assert models == (files["int8"], files["fp32"])
    assert dataclasses.asdict(found) == {
        "objective": "throughput",
        "min_agreement": 0.93,
        "max_drop": 0.5,
        "budget_s": 12,
        "exhaustive": True,
    }
    assert (named["providers"], named["threads"]) == (("cpu", "openvino"), 3)
    # Not test images: what is chosen on them is no longer tested by them.
    np.testing.assert_array_equal(named["data"].images, read_split(files["data"], "train", size=SIZE, limit=15).images)


def test_tune_has_usual_settings(run_cli, door, files):
    (models, goal), named = tune(run_cli, door, "--data", files["data"])
    assert models == (bundled_model(),)
    assert (goal.objective, goal.min_agreement, goal.max_drop, goal.budget_s, goal.exhaustive) == ("latency", 0.99, None, 90, False)
    assert (named["providers"], named["threads"], len(named["data"])) == (("cpu", "cuda", "openvino"), None, TRAINING_IMAGES)
    reading = door("edgeresnet.datasets.read_split")
    run_cli("tune", "--data", files["data"])
    assert reading.named["limit"] == 500
    assert tune(run_cli, door)[1]["data"] is None


# --- doctor, and all


@pytest.mark.parametrize(("given", "expected"), [((), ()), (("--provider", "cuda", "--provider", "openvino"), ("cuda", "openvino"))])
def test_doctor_examines_the_providers_that_have_to_work(run_cli, door, given, expected):
    examining = door("edgeresnet.doctor.examine")
    run_cli("doctor", *given)
    assert examining.arrived[0] == (expected,)


@pytest.mark.parametrize("command", ["predict", "eval", "bench", "tune", "doctor", "info", "verify"])
def test_json_is_alone_on_standard_output(run_cli, files, command):
    arguments = {
        "predict": ("{image}", "--model", "{int8}"),
        "eval": ("{int8}", "--data", "{data}", "--no-original"),
        "bench": ("{int8}", "--no-original", "--min-time", 0),
        "tune": ("{int8}", "--budget", 0, "--threads", 1, "--provider", "cpu"),
        "doctor": (),
        "info": ("{int8}",),
        "verify": ("{int8}",),
    }[command]
    json.loads(run_cli(command, *fill(arguments, files), "--format", "json").out)
    shown = run_cli(command, *fill(arguments, files)).out
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown)


SETTINGS_OF_TRAINING = ("--epochs", "--batch-size", "--lr", "--muon-lr", "--image-size", "--seed", "--amp", "--no-amp")
# Every option has a test here or in test_options_of_making. A new one needs one too.
TESTED = {
    "train": {
        "--data",
        "--download",
        "--output",
        "--resume",
        "--recipe",
        "--init",
        "--teacher",
        "--teacher-network",
        "--network",
        *SETTINGS_OF_TRAINING,
        "--device",
        "--no-winograd",
    },
    "average": {"--data", "--network", "--output", "--validation-fraction"},
    "export": {
        *("--precision", "--output", "--data", "--limit", "--amx", "--max-drop", "--min-db", "--network", "--weights", "--labels"),
        *("--preset", "--size", "--mean", "--std", "--fit", "--resize", "--filter"),
    },
    # Its other options in tests/exporters/test_quantize_kinds.py, tests/exporters/test_processors.py, tests/exporters/static/test_forms.py
    # and tests/edgeresnet/cli/test_quantize.py.
    "quantize": {
        *(
            "--dynamic",
            "--static",
            "--for",
            "--fp32",
            "--output",
            "--min-db",
            "--max-drop",
            "--data",
            "--limit",
            "--images",
            "--size",
            "--input",
            "--pixel-range",
            "--format",
        ),
    },
    "bench": {
        *TARGET_OPTIONS,
        "--batch-size",
        "--min-time",
        "--thread-sweep",
        "--scenario",
        "--bound",
        "--minutes",
        "--operators",
        "--corrupt",
        "--html",
        "--data",
        "--download",
        "--limit",
        "--network",
        "--original",
        "--no-original",
        "--output",
        "--format",
    },
    # In tests/benchmarks/test_compare.py.
    "compare": {"--threshold", "--fail-if", "--all", "--format"},
    # In tests/benchmarks/test_report.py.
    "report": {"--html", "--data"},
    "tune": {
        *("--for", "--provider", "--threads", "--min-agreement", "--max-drop", "--data", "--limit", "--budget", "--exhaustive", "--output"),
        "--format",
    },
    "eval": {*TARGET_OPTIONS, "--data", "--limit", "--batch-size", "--network", "--original", "--no-original", "--format"},
    "predict": {*TARGET_OPTIONS, "--model", "--top", "--list", "--output", "--resume", "--shard", "--format"},
    "verify": {*TARGET_OPTIONS, "--format"},
    # In tests/exporters/test_adopt.py.
    "adopt": {
        *("--output", "--labels", "--preset", "--size", "--mean", "--std", "--fit", "--resize", "--filter", "--pixel-range", "--bgr"),
        *("--input", "--format"),
    },
    "info": {"--format"},
    "doctor": {"--provider", "--format"},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_tested(name):
    command = cli.get_command(click.Context(cli), name)
    options = {flag for option in command.params if isinstance(option, click.Option) for flag in (*option.opts, *option.secondary_opts)}
    assert options == TESTED[name]


def test_a_limit_of_the_uneven_folder_is_spread(files):
    """What the counts above rest on."""
    test = read_split(files["data"], "test", size=SIZE)
    assert isinstance(test, LabelledImages)
    assert list(count_by_class(test).values()) == [1 + i % 4 for i in range(10)]
    assert len(read_split(files["data"], "train", size=SIZE)) == TRAINING_IMAGES
