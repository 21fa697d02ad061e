"""The examples of the README, and of the documents beside the code, run, and their figures are those of the committed records."""

import csv
import json
import pickle
import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms._presets import ImageClassification

from benchmarks.studies.emulation import ARM_ONNXRUNTIME
from benchmarks.studies.forms import OUR_FORMS
from benchmarks.studies.gpu import tabulate as tabulate_gpu
from benchmarks.studies.networks import tabulate as tabulate_networks
from benchmarks.studies.packages import tabulate as tabulate_packages
from benchmarks.studies.peers import roster
from benchmarks.studies.peers.record import tabulate
from benchmarks.studies.picture import draw
from benchmarks.studies.trained import tabulate as tabulate_trained
from benchmarks.studies.trained import tabulate_processors
from edgeresnet.classifier import Classifier, bundled_model
from edgeresnet.datasets import read_split
from edgeresnet.evaluation import compare_logits, top1
from edgeresnet.images import to_pixels
from edgeresnet.modelfile import read_model_file
from edgeresnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from edgeresnet.profile import Profile
from edgeresnet.session import Session
from edgeresnet.spec import Accuracy
from edgeresnet.target import Target
from edgeresnet.timing import time_calls
from edgeresnet.training.weights import bundled_weights, load_weights

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md",
        "benchmarks/README.md",
        "edgeresnet/README.md",
        "edgeresnet/models/README.md",
        "edgeresnet/models/training/README.md",
        "edgeresnet/providers/README.md",
        "edgeresnet/training/README.md",
        "exporters/README.md",
    )
}
README, FIGURES = DOCUMENTS["README.md"], DOCUMENTS["benchmarks/README.md"]
COMMANDS = {name: found for name, text in DOCUMENTS.items() if (found := re.findall(r"^\$ edgeresnet (.+)$", text, re.MULTILINE))}
PYTHON = [
    pytest.param(code, id=f"{name}-{i}")
    for name, text in DOCUMENTS.items()
    for i, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
]
RECORD = json.loads((ROOT / "benchmarks" / "records" / "cpu.json").read_text())
CARD = json.loads((ROOT / "benchmarks" / "records" / "card.json").read_text())
OPTIMIZERS = sorted((ROOT / "benchmarks" / "records" / "optimizers").iterdir())
MODEL_CARD = DOCUMENTS["edgeresnet/models/README.md"]
TRAINING_ACCOUNT = DOCUMENTS["edgeresnet/models/training/README.md"]
GPU = ROOT / "benchmarks" / "records" / "gpu"
GPU_RUNS = sorted((ROOT / "benchmarks" / "records" / "training").iterdir())
EMULATION = json.loads((ROOT / "benchmarks" / "records" / "emulation.json").read_text())
LITERT_AVX2 = json.loads((ROOT / "benchmarks" / "records" / "litert-avx2.json").read_text())
LITERT = json.loads((ROOT / "benchmarks" / "records" / "litert.json").read_text())
TRAINED = {name: json.loads((ROOT / "benchmarks" / "records" / f"{name}.json").read_text()) for name in ("trained", "trained-avx2")}
PEERS = ROOT / "benchmarks" / "records" / "peers.json"
OTHER_CPUS = {name: json.loads((ROOT / "benchmarks" / "records" / f"cpu-{name}.json").read_text()) for name in ("epyc", "avx2")}
TRAINING_STEPS = {
    arithmetic: json.loads((ROOT / "benchmarks" / "records" / f"training_step-{arithmetic}.json").read_text())
    for arithmetic in ("bfloat16", "float32")
}


PETS = """from torch import nn


def build(num_classes):
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
"""


def write_networks(monkeypatch):
    """A network of the user's own, weights of two, and somebody's ONNX file, in the current folder."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("pets.py").write_text(PETS)
    pets = import_module("pets")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(pets.build(3).state_dict(), "pets.pt")
        save_file(torchvision.models.squeezenet1_1().state_dict(), "squeezenet.safetensors")
        foreign = pets.build(4).eval()
    Path("pets.txt").write_text("cat\ndog\nhamster\n")
    Path("classes.txt").write_text("north\neast\nsouth\nwest\n")
    torch.onnx.export(foreign, (torch.zeros(1, 3, 48, 40),), "classifier.onnx", dynamo=True, external_data=False, verbose=False)
    monkeypatch.delitem(sys.modules, "pets")


@pytest.fixture
def workplace(tmp_path, monkeypatch, image_folder, labelled_folder):
    """A folder with the files that the examples mention."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.jpg")
    shutil.copytree(image_folder, "my-images")
    shutil.copytree(labelled_folder, "cifar10")
    Profile.of(bundled_model(), Target(threads=1), images_per_call=1, p50_ms=5.0).write(Path("deploy.json"))
    (tmp_path / "photos").mkdir()
    shutil.copy("cat.jpg", "photos")
    write_networks(monkeypatch)
    return tmp_path


@pytest.fixture
def short_timings(monkeypatch):
    """A twentieth of the time for what tune times: the figures here are nobody's."""

    def time_briefly(call, *, seconds, least=1):
        return time_calls(call, seconds=seconds / 20, least=least)

    monkeypatch.setattr("benchmarks.tuning.racing.time_calls", time_briefly)


def count_right(model, images):
    return top1(Session(Path(model)).logits(images.images), images.labels)


def check_predict(words, result):
    if "jsonl" in words:
        (row,) = map(json.loads, result.out.splitlines())
        assert (row["image"], row["label"]) == ("photos/cat.jpg", Classifier().predict("cat.jpg").label)
        return
    model = Profile.read(Path("deploy.json")).model if "--profile" in words else None
    best = Classifier(model).predict("cat.jpg").top(int(words[words.index("--top") + 1]) if "--top" in words else 1)
    shown = result.out.split("cat.jpg")[1].split()
    assert shown[::2] == [label for label, _ in best]
    assert shown[1::2] == [f"{round(score, 6):.2%}" for _, score in best]


def check_export(words, result):
    if "--network" in words or words[0].endswith(".onnx"):
        check_other_export(words, result)
        return
    folder, data = Path(words[words.index("--output") + 1]), Path(words[words.index("--data") + 1])
    for precision in ("fp32", "int8"):
        path = folder / f"resnet18-{precision}.onnx"
        spec = Session(path).spec
        images = read_split(data, "test", size=32)
        logits = Session(path).logits(images.images)
        among_five = float((np.argsort(-logits, axis=1)[:, :5] == images.labels[:, None]).any(1).mean()) if logits.shape[1] > 5 else None
        expected = Accuracy(top1=pytest.approx(count_right(path, images)), top5=among_five, count=len(images), data=images.name)
        assert spec.accuracy == expected
        (row,) = [line for line in result.out.splitlines() if str(path) in line]
        assert row.split()[-1] == f"{spec.accuracy.top1:.2%}"
        assert f"predict IMAGE --model {folder}" in result.err
    assert f"compared with the PyTorch original on {len(images)} images ({images.name})" in result.out


def check_other_export(words, result):
    """Of squeezenet and of the user's own network: the file answers as the module does on an image that PyTorch prepares."""
    own = "pets:build" in words
    precision = words[words.index("--precision") + 1]
    path = Path("models") / f"{'pets-build' if own else 'squeezenet1_1'}-{precision}.onnx"
    module = import_module("pets").build(3) if own else torchvision.models.squeezenet1_1()
    module.load_state_dict(torch.load("pets.pt", weights_only=True) if own else load_file("squeezenet.safetensors"))
    size, frame = (64, 73) if own else (224, 256)
    with Classifier(path) as classifier, torch.inference_mode():
        expected = module.eval()(ImageClassification(crop_size=size, resize_size=frame)(Image.open("cat.jpg"))[None])[0].numpy()
        tolerance = (1e-4 if precision == "fp32" else 1e-2) * abs(expected).max()
        np.testing.assert_allclose(classifier.predict("cat.jpg").logits, expected, atol=tolerance)
        assert classifier.labels[:2] == (("cat", "dog") if own else ("tench", "goldfish"))
    assert str(path) in result.out


def check_adopt(words, result):
    path = Path(words[words.index("--output") + 1])
    image = Image.open("cat.jpg")
    session = onnxruntime.InferenceSession(words[0], providers=["CPUExecutionProvider"])
    wanted = Classifier(path).spec.input
    assert (wanted.shape, wanted.fit) == ((48, 40, 3), "crop")
    pixels = (to_pixels(image, wanted) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    (expected,) = session.run(None, {session.get_inputs()[0].name: pixels.astype(np.float32).transpose(2, 0, 1)[None]})
    prediction = Classifier(path).predict("cat.jpg")
    np.testing.assert_allclose(prediction.logits, expected[0], rtol=1e-3, atol=1e-4 * abs(expected).max())
    assert prediction.label == ("north", "east", "south", "west")[expected.argmax()]
    assert f"{path}: " in result.out
    assert "logits of 4 classes; names from --labels" in result.out


def check_verify(words, result):
    assert result.out.startswith(f"{words[0]}: the maker's answers to 4 image(s), bit for bit")


def check_bench(words, result):
    rows = [line.split() for line in result.out.splitlines()]
    if "--no-original" in words:
        (measured,) = json.loads(Path("record.json").read_text())["results"]
        assert (measured["name"], measured["sha256"]) == (bundled_model().name, read_model_file(bundled_model()).sha256)
        assert f"layers of {measured['name']}: the slowest 8 of {len(measured['layers'])}" in result.out
        assert f"{measured['offline']['images_per_s']:,.0f}" in result.out
        return
    images = read_split(Path("cifar10"), "test", size=32)
    for path in words[:2]:
        # A remark may begin a line with the name as well.
        (row,) = [row for row in rows if row and row[0] == Path(path).name and row[-1].endswith("%")]
        assert row[-2] == f"{count_right(path, images):.2%}"
    (original,) = [row for row in rows if row[:2] == ["PyTorch", "original"]]
    assert original[-1] == "100.00%"
    assert original[-3] == ("-" if "not to be believed" in result.out else "1.00x")
    assert f"answers on {len(images)} images: {images.name}" in result.out


def check_report(words, result):
    (measured,) = json.loads(Path(words[0]).read_text())["results"]
    page = Path(words[-1]).read_text()
    assert f"{measured['latency'][0]['p50_ms']:.2f}" in page
    assert f"{words[-1]}: open it in a browser" in result.err


def check_compare(words, result):
    assert "held: size>+1% (1 figure(s))" in result.err


def check_quantize(words, result):
    if "--for" in words:
        target = Path(words[0].replace("fp32", "int8"))
        assert f"\n{target}: int8, {target.stat().st_size / 1e6:.1f} MB (5.0), for arm64, not timed\n" in result.out
        # The stem's rows are too short; what the budget leaves depends on the weights, which are random.
        assert 0 < int(re.search(r"^(\d+) of 26 layers in INT8", result.err, re.MULTILINE)[1]) <= 25
        return
    target = Path(words[-1])
    assert f"\n{target}: int8, {target.stat().st_size / 1e6:.1f} MB (44.7), " in result.out
    # Which of them pay is measured; the stem and the head never do.
    assert 0 < int(re.search(r"^(\d+) of 21 layers in INT8", result.err, re.MULTILINE)[1]) <= 19
    assert Session(target).spec.precision == "int8"


def check_doctor(words, result):
    assert re.search(r"^ok +provider cpu +starts *$", result.out, re.MULTILINE)
    assert "broken" not in result.out


def check_tune(words, result):
    profile = Profile.read(Path("deploy.json"))
    assert profile.model.resolve() in [Path(path).resolve() for path in words[:2]]
    first = next(line.split() for line in result.out.splitlines() if "resnet18-" in line)
    assert first[:3] == [profile.model.name, "cpu", str(profile.target.threads)]
    assert f"agreement with {Path(words[0]).name} on 256 images: synthetic images" in result.out
    assert "predict --profile deploy.json" in result.err


def check_eval(words, result):
    images = read_split(Path("cifar10"), "test", size=32)
    logits = Session(Path(words[0])).logits(images.images)
    parity = compare_logits(load_weights(bundled_weights()).logits(images.images), logits)
    assert f"{top1(logits, images.labels):.2%} (95 % interval" in result.out
    assert f"{parity.agreement:.2%} agreement" in result.out
    assert f"SQNR {parity.sqnr_db:.1f} dB" in result.out


def check_info(words, result):
    file = read_model_file(Path(words[0]))
    assert file.sha256 in result.out
    assert f"{len(file.content):,}" in result.out
    assert f"{file.operators['MatMulInteger']} MatMulInteger" in result.out


def check_train(words, result):
    weights = Path(words[words.index("--output") + 1]) / "weights.safetensors"
    trained = load_weights(weights)
    assert result.out.splitlines() == [f"{weights}, {trained.spec.accuracy}", f"next: edgeresnet export {weights} --data my-images"]
    assert len(re.findall(r"^epoch [12]/2  32 px", result.err, re.MULTILINE)) == 2
    images = read_split(Path("my-images"), "test", size=32)
    assert trained.spec.accuracy.top1 == top1(trained.logits(images.images), images.labels)


CHECKS = {
    "predict": check_predict,
    "export": check_export,
    "bench": check_bench,
    "compare": check_compare,
    "report": check_report,
    "quantize": check_quantize,
    "doctor": check_doctor,
    "tune": check_tune,
    "eval": check_eval,
    "info": check_info,
    "train": check_train,
    "adopt": check_adopt,
    "verify": check_verify,
}


def test_no_document_is_left_out():
    """Those that are not examined here are no accounts of what the code does."""
    found = [
        *ROOT.glob("*.md"),
        *(file for package in ("benchmarks", "edgeresnet", "exporters", "tests") for file in (ROOT / package).rglob("*.md")),
    ]
    assert {str(file.relative_to(ROOT)) for file in found} == {*DOCUMENTS, "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
    assert COMMANDS.keys() >= {"README.md", "exporters/README.md"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name])
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, heading = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings], link


@pytest.mark.usefixtures("workplace", "short_timings")
@pytest.mark.parametrize("document", COMMANDS)
def test_the_commands_run_as_given_and_print_what_is_so(run_cli, document):
    for command in COMMANDS[document]:
        name, *words = shlex.split(command)
        result = run_cli(name, *words)
        assert result.status == 0, f"{command}: {result.err}"
        CHECKS[name](words, result)


def said_by_python(code):
    """What an example prints, from what it does by other means."""
    prediction = Classifier().predict("cat.jpg")
    if "from_profile" in code or "export_module" in code or "def classify" in code:
        return ""
    if "predict_batch" not in code:
        return f"{prediction!r}\n"
    line = f"{prediction.label} {prediction.score} {prediction.top(3)}\n"
    return f"{line}{line}image data of 13 bytes: not an image in a format that Pillow reads\n"


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs_as_given_and_prints_what_is_so(code, capsys):
    exec(compile(code, "document", "exec"), {})
    assert capsys.readouterr().out == said_by_python(code)


@pytest.mark.usefixtures("workplace")
def test_the_function_for_spark_and_ray_takes_any_iterable_and_gives_what_travels():
    (code,) = [code for (code,) in (example.values for example in PYTHON) if "def classify" in code]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    answers = pickle.loads(pickle.dumps(list(names["classify"](iter(["cat.jpg", "none.jpg", "photos/cat.jpg"])))))
    label = Classifier().predict("cat.jpg").label
    assert answers == [("cat.jpg", label), ("none.jpg", "none.jpg: no such file"), ("photos/cat.jpg", label)]


def name_of(result):
    return "PyTorch original" if result["runtime"] == "pytorch" else f"`{result['name']}`"


def test_the_figures_are_the_records():
    for result in RECORD["results"]:
        accuracy, size = result["accuracy"], f"{result['size_bytes'] / 1e6:.1f}"
        answers = f"{accuracy['top1']:.2%} | {accuracy['agreement_with_original']:.2%}"
        for latency in result["latency"]:
            speedup = f"{latency['speedup_vs_original']:.2f}x"
            times = f"{latency['p50_ms']:.2f} | {latency['p90_ms']:.2f} | {latency['images_per_s']:.0f}"
            assert f"| {name_of(result)} | {size} | {latency['batch_size']} | {times} | {speedup} | {answers} |" in FIGURES
            if latency["batch_size"] == 1:
                assert f"| {name_of(result)} | {size} | {latency['p50_ms']:.2f} | {speedup} | {answers} |" in README
    environment = RECORD["environment"]
    for account in (README, FIGURES):
        assert f"{environment['cpu']} (avx2, avx512_vnni, avx512_bf16), {RECORD['settings']['threads']} threads" in account
        for package, written in (("onnxruntime", "ONNX Runtime"), ("torch", "PyTorch")):
            assert f"{written} {environment['packages'][package]}" in account
    assert {"avx2", "avx512_vnni", "avx512_bf16"} <= set(environment["instruction_sets"])


def test_the_documents_say_how_far_the_intervals_reach():
    reaches = [
        max(
            latency["speedup_interval95"][1] / latency["speedup_vs_original"] - 1,
            1 - latency["speedup_interval95"][0] / latency["speedup_vs_original"],
        )
        for result in RECORD["results"]
        for latency in result["latency"]
    ]
    assert f"intervals of its speed-ups reach {max(reaches):.0%} to either side" in FIGURES


def test_the_picture_is_of_the_record():
    committed = (ROOT / "benchmarks" / "records" / "cpu.svg").read_text()
    texts, bars = (re.findall(pattern, committed) for pattern in (r"<text[^>]*>([^<]+)</text>", r"d=\"M ([\d.]+) [\d.]+ ?\nL ([\d.]+) "))
    again = draw(RECORD)
    assert texts == re.findall(r"<text[^>]*>([^<]+)</text>", again)
    for result in RECORD["results"]:
        latency = next(each for each in result["latency"] if each["batch_size"] == 1)
        assert any(f"{latency['p50_ms']:.2f} ms" in text for text in texts)
    assert "benchmarks/records/cpu.svg" in README
    lengths = sorted(float(right) - float(left) for left, right in bars[1:])
    times = sorted(next(each["p50_ms"] for each in result["latency"] if each["batch_size"] == 1) for result in RECORD["results"])
    np.testing.assert_allclose(np.divide(lengths, lengths[-1]), np.divide(times, times[-1]), rtol=1e-3)


def test_the_emulated_figures_are_the_records():
    for model in {result["model"] for result in EMULATION["results"]}:
        figures = [f"{result['sqnr_db']:.1f} dB" for result in EMULATION["results"] if result["model"] == model]
        assert f"| `{model}` | {' | '.join(figures)} |" in FIGURES
    assert f"on {EMULATION['images']} test images" in FIGURES


def test_the_model_card_has_the_records_figures():
    low, high = CARD["top1_interval95"]
    assert f"{CARD['top1']:.2%} top-1, 95 % interval {low:.2%} to {high:.2%}" in MODEL_CARD
    for shares in (CARD["per_class"].values(), *CARD["corrupted"].values()):
        assert f"| {' | '.join(f'{share:.1%}' for share in shares)} |" in MODEL_CARD
    assert f"is {CARD['calibration_error']:.1%}" in MODEL_CARD
    assert f"{CARD['corrupted_count']:,} of the test images, {CARD['corrupted_clean']:.1%} as they are" in MODEL_CARD
    assert CARD["checkpoint_sha256"] == Classifier().spec.checkpoint_sha256


def test_the_figures_on_a_gpu_are_the_records():
    assert tabulate_gpu(GPU) in FIGURES
    steps = {path.stem: json.loads(path.read_text()) for path in GPU.iterdir()}
    found = {
        (step, row["precision"] if row["name"].endswith(".onnx") else "original", latency["batch_size"]): latency
        for step in ("bench", "bench-graphs")
        for row in steps[step]["result"]["results"]
        for latency in row["latency"]
    }
    once, graph, original = (found[key]["p50_ms"] for key in (("bench", "fp32", 1), ("bench-graphs", "fp32", 1), ("bench", "original", 1)))
    (card,) = steps["bench"]["environment"]["gpus"]
    assert (
        f"On an {card} one image takes {once:.2f} ms in TF32, and {graph:.2f} as a CUDA graph, where PyTorch takes {original:.2f}" in README
    )
    assert f"on an {card}, ONNX Runtime {steps['bench']['environment']['packages']['onnxruntime-gpu']}" in FIGURES
    low, high = found["bench", "fp16", 1]["p50_interval95"]
    assert f"reaches from {low:.2f}\nto {high:.2f} ms, those of the graphs not 1 % far" in FIGURES
    for precision in ("fp32", "fp16"):
        graphs = found["bench-graphs", precision, 1]
        assert np.abs(np.divide(graphs["p50_interval95"], graphs["p50_ms"]) - 1).max() < 0.01
    half = steps["bench-half"]["result"]["latency"][-1]["p50_ms"]
    behind = [
        found["bench", "fp32", 256]["p50_ms"] / found["bench", "original", 256]["p50_ms"],
        found["bench", "fp16", 256]["p50_ms"] / half,
    ]
    assert [f"{factor:.2f}" for factor in behind] == ["1.35", "1.35"]
    assert "by 1.35 times in TF32 and in float16 alike" in FIGURES
    assert steps["threads"]["result"]["equal"]
    assert not steps["int8"]["result"]["opened"]
    assert "smaller than requested bytes of 2359296" in steps["little-memory"]["result"]["error"]


@pytest.mark.parametrize("run", GPU_RUNS, ids=lambda run: run.name)
def test_the_figures_of_a_run_on_a_gpu_are_its_logs(run):
    settings = json.loads((run / "config.json").read_text())
    epochs = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert len(epochs) == settings["epochs"]
    rate = np.median([float(epoch["images_per_s"]) for epoch in epochs])
    seconds = sum(float(epoch["seconds"]) for epoch in epochs)
    row = (
        f"| {run.name} | {settings['epochs']} | {settings['muon_lr']:g} | {'yes' if settings['trivial_augment'] else 'no'} "
        f"| {settings['cutmix']:g} | {rate:,.0f} | {seconds:.0f} | {float(epochs[-1]['validation_top1']):.1%} |"
    )
    assert row in DOCUMENTS["edgeresnet/training/README.md"]


@pytest.mark.parametrize("arithmetic", TRAINING_STEPS)
def test_the_figures_of_a_training_step_are_the_records(arithmetic):
    record = TRAINING_STEPS[arithmetic]
    usual = record["usual"]
    name = f"[{arithmetic}](../../benchmarks/records/training_step-{arithmetic}.json)"
    assert "avx512_bf16" in record["environment"]["instruction_sets"]
    assert (
        f"| {name} | {usual['images_per_s']:.0f} | {1 / record['speedup']:.2f}x | {usual['prepare_share']:.1%} |"
        in DOCUMENTS["edgeresnet/training/README.md"]
    )


@pytest.mark.parametrize(
    ("name", "has"),
    [("epyc", ["avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16"]), ("avx2", ["avx2", "fma"])],
)
def test_the_latencies_on_other_processors_are_the_records(name, has):
    record = OTHER_CPUS[name]
    for result in record["results"]:
        one, many = (f"{latency['p50_ms']:.2f} | {latency['speedup_vs_original']:.2f}x" for latency in result["latency"])
        assert f"| {name_of(result)} | {one} | {many} |" in FIGURES
    assert record["environment"]["cpu"] == "AMD EPYC"
    assert record["environment"]["instruction_sets"] == has


@pytest.mark.parametrize(
    ("name", "has_vnni", "said"),
    [
        (
            "networks",
            True,
            "the dynamic form, which needs no data, is faster than LiteRT's dynamic one for {ahead_without_data} of them",
        ),
        ("networks-avx2", False, "the dynamic form for {ahead_without_data} of them"),
    ],
)
def test_the_figures_of_other_networks_are_the_records(name, has_vnni, said):
    record = json.loads((ROOT / "benchmarks" / "records" / f"{name}.json").read_text())
    results = record["results"]
    assert tabulate_networks(results) in FIGURES
    speeds = [{form: found["speedup"] for form, found in result["forms"].items()} for result in results]
    litert = [max(found[form] for form in found if form.startswith("litert")) for found in speeds]
    ahead = [max(found["dynamic"], found["static"]) > theirs for found, theirs in zip(speeds, litert, strict=True)]
    ahead_without_data = sum(found["dynamic"] > found["litert-dynamic"] for found in speeds)
    assert f"for {sum(ahead)} of the {len(ahead)} networks, and {said.format(ahead_without_data=ahead_without_data)}" in FIGURES
    behind = [result["network"].replace("_", r"\_") for result, is_ahead in zip(results, ahead, strict=True) if not is_ahead]
    assert all(f"for {network}, w" in FIGURES for network in behind)
    assert min(found[form] for found in speeds for form in ("dynamic", "static")) > 1
    assert "Each of our files is faster than FP32." in FIGURES
    assert ("avx512_vnni" in record["environment"]["instruction_sets"]) == has_vnni


def _listed(names):
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


@pytest.mark.parametrize("name", TRAINED)
def test_the_accuracy_of_trained_networks_is_the_records(name):
    results = TRAINED[name]["results"]
    assert tabulate_trained(results) in FIGURES
    assert all(result["images"] == 10_000 for result in results)
    lost = {form: max(0, *(r["fp32_top1"] - r["forms"][form]["top1"] for r in results)) for form in OUR_FORMS}
    assert f"at most {100 * lost['dynamic']:.2f} points in the dynamic form and {100 * lost['static']:.2f} in the static one" in FIGURES
    speeds = [{form: found["speedup"] for form, found in result["forms"].items()} for result in results]
    behind = [r for r, of in zip(results, speeds, strict=True) if of["litert-static"] > max(of[form] for form in OUR_FORMS)]
    names = _listed(r["network"].partition(":")[2].replace("_", r"\_") for r in behind)
    points = _listed(f"{100 * (r['fp32_top1'] - r['forms']['litert-static']['top1']):.2f}" for r in behind)
    assert f"LiteRT's full INT8 is faster than both for {names}, where it loses {points} points" in FIGURES
    for result in results:
        folder = ROOT / "benchmarks" / "records" / name / result["network"].partition(":")[2]
        config = json.loads((folder / "config.json").read_text())
        assert (config["network"], config["image_size"]) == (result["network"], result["size"][0])
        assert len((folder / "log.csv").read_text().splitlines()) == 1 + config["epochs"]


@pytest.mark.parametrize(("name", "has_vnni"), [("trained", True), ("trained-avx2", False)])
def test_the_answers_of_trained_networks_on_other_processors_are_the_records(name, has_vnni):
    results = [result for result in TRAINED[name]["results"] if result["emulated"]]
    assert tabulate_processors(results) in FIGURES
    (count,) = {result["emulated"] for result in results}
    forms = [result["forms"][form] for result in results for form in OUR_FORMS]
    most = max(abs(found["points"]) for form in forms for found in form["emulated"].values())
    assert f"For {count} of these images, none gains or loses more than {most:.2f} points" in FIGURES
    assert f"on ARM it is ONNX Runtime {ARM_ONNXRUNTIME.partition('==')[2]}" in FIGURES
    assert ("avx512_vnni" in TRAINED[name]["environment"]["instruction_sets"]) == has_vnni
    assert all(result["forms"]["static"]["emulated"]["AVX2 without VNNI"]["sqnr_db"] is None for result in results)
    for form in forms:
        for found in form["emulated"].values():
            assert found["agreement"] == 1 or found["sqnr_db"] > form["sqnr_db"] - 1


def test_the_few_images_that_a_static_form_cuts_off_are_the_records():
    unlike = min(TRAINED["trained-avx2"]["results"], key=lambda r: r["forms"]["static"]["sqnr_db"])["forms"]["static"]
    assert f"The {unlike['sqnr_db']:.0f} dB of regnet\\_y\\_400mf's static form" in FIGURES
    assert f"{unlike['agreement']:.1%} of the classes are FP32's" in FIGURES


def test_the_table_of_other_peoples_files_is_the_records():
    results = json.loads((ROOT / "benchmarks" / "records" / "packages.json").read_text())["results"]
    assert tabulate_packages(results) in FIGURES
    written = [repeat for result in results for repeat in result["repeats"] if "refusal" not in repeat]
    assert {len(result["repeats"]) for result in results} == {5}
    slowest = min(repeat["checked_speedup"] for repeat in written)
    assert f"of {len(written)} files that were written none was slower than what it was made from" in FIGURES
    assert f"the least gain was {slowest:.2f}x" in FIGURES
    assert slowest >= 1
    ((lower, upper),) = [repeat["checked_bounds"] for repeat in written if repeat["checked_bounds"][0] < 1]
    assert f"(of one the bounds were {lower:.2f} to {upper:.2f}x, of all others above 1)" in FIGURES


def test_the_figures_beside_litert_are_the_records():
    for r in LITERT["results"]:
        figures = f"{r['p50_ms']:.2f} | {r['sqnr_db']:.1f} dB | {r['agreement']:.2%}"
        assert f"| `{r['model']}` | {r['runtime']} | {figures} |" in FIGURES
    assert f"{LITERT['images']:,} test images against the PyTorch original" in FIGURES
    ours, theirs = (
        next(r["p50_ms"] for r in LITERT_AVX2["results"] if (r["runtime"], r["precision"]) == (runtime, "int8"))
        for runtime in ("onnxruntime", "litert")
    )
    assert f"{ours:.2f} ms stand against {theirs:.2f}" in FIGURES


@pytest.mark.skipif(not PEERS.exists(), reason="benchmarks/records/peers.json is not taken yet")
def test_the_table_of_peers_is_the_records():
    record = json.loads(PEERS.read_text())
    assert tabulate(record) in FIGURES
    assert {row["name"] for row in record["peers"]} == {peer.name for peer in roster.PEERS}


@pytest.mark.parametrize("run", OPTIMIZERS, ids=lambda run: run.name)
def test_the_figures_of_an_optimizer_are_its_runs(run):
    settings = json.loads((run / "config.json").read_text())
    epochs = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert len(epochs) == settings["epochs"]
    name = f"Muon, {settings['muon_lr']:g}" if settings["muon_lr"] else f"SGD, {settings['lr']:g}"
    seconds = min(float(epoch["seconds"]) for epoch in epochs)
    end = epochs[-1]
    row = f"| {name} | {float(end['train_loss']):.3f} | {float(end['validation_top1']):.1%} | {seconds:.0f} |"
    assert row in TRAINING_ACCOUNT


def test_the_runs_of_the_optimizers_differ_in_their_rates_alone():
    alike = [{**json.loads((each / "config.json").read_text()), "lr": 0, "muon_lr": 0} for each in OPTIMIZERS]
    assert all(other == alike[0] for other in alike)
