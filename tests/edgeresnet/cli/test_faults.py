"""Whole commands on full disks, in folders that take no files, and killed at random moments: the old file or the new one, and one line.

The tests kill each command once; the long form, in which as many kills as one likes go round all commands, is a command:

    python tests/edgeresnet/cli/test_faults.py --kills 100
"""

import argparse
import csv
import ctypes
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from edgeresnet import Classifier
from edgeresnet.cli import main as edgeresnet
from edgeresnet.profile import Profile
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights, save_weights

# Small, and of layers that INT8 makes certainly faster on any processor, on a busy machine too; own networks are imported by their name.
NETWORK = """
import torch

def build(classes):
    layers = []
    for channels in (3, 128, 128, 128):
        layers += [torch.nn.Conv2d(channels, 128, 3, padding=1, bias=False), torch.nn.BatchNorm2d(128), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(128, classes))
"""
NAMED = ["--network", "faulty_network:build"]
TRAIN = ["train", "--data", "{kit}/data", "--output", "{out}/run"]
FRESH = [*NAMED, "--epochs", "2", "--batch-size", "8", "--image-size", "8"]
PREDICT = ["predict", "{kit}/data", "--model", "{kit}/fp32.onnx", "--threads", "1"]
EXPORT = ["export", "{kit}/weights.safetensors", *NAMED, "--output", "{out}"]

COMMANDS = {
    "export": EXPORT,
    "adopt": ["adopt", "{kit}/foreign.onnx", "--pixel-range", "1", "--output", "{out}/adopted.onnx"],
    "quantize": ["quantize", "{kit}/fp32.onnx", "--output", "{out}/quantized.onnx"],
    "train": [*TRAIN, *FRESH],
    "average": ["average", "{kit}/plus", "{kit}/minus", *NAMED, "--data", "{kit}/data", "--output", "{out}/average.safetensors"],
    "tune": ["tune", "{kit}/fp32.onnx", "--provider", "cpu", "--threads", "1", "--budget", "0", "--output", "{out}/deploy.json"],
    "bench": ["bench", "{kit}/fp32.onnx", "--no-original", "--min-time", "0", "--threads", "1", "--output", "{out}/record.json"],
    "predict": [*PREDICT, "--format", "csv", "--output", "{out}/classes.csv"],
    "resume": [*PREDICT, "--resume", "{out}/classes.jsonl"],
}
TARGETS = {
    "export": ["faulty_network-build-fp32.onnx", "faulty_network-build-int8.onnx"],
    "adopt": ["adopted.onnx"],
    "quantize": ["quantized.onnx"],
    "train": [],
    "average": ["average.safetensors"],
    "tune": ["deploy.json"],
    "bench": ["record.json"],
    "predict": ["classes.csv"],
    "resume": [],
}


def arguments_of(name: str, kit: Path, out: Path) -> list[str]:
    return [argument.format(kit=kit, out=out) for argument in COMMANDS[name]]


def make_kit(kit: Path) -> None:
    """Fill a folder with what the commands read."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 200)):
        for colour, label in enumerate(("red", "green")):
            (kit / "data" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (8, 8, 3), np.uint8)
                pixels[..., colour] += 120
                Image.fromarray(pixels).save(kit / "data" / split / label / f"{i}.png")
    (kit / "faulty_network.py").write_text(NETWORK)
    sys.path.insert(0, str(kit))
    with pytest.raises(SystemExit, match="0"):
        edgeresnet(arguments_of("train", kit, kit))
    shutil.move(kit / "run" / "weights.safetensors", kit)
    with pytest.raises(SystemExit, match="0"):
        edgeresnet(arguments_of("export", kit, kit))
    shutil.move(kit / TARGETS["export"][0], kit / "fp32.onnx")
    trained = load_weights(kit / "weights.safetensors", NAMED[1])
    state = trained.model.network.state_dict()
    bias = list(state)[-1]
    # One knows the first class alone and one the second: what is right is in the middle.
    for name, certainty in (("plus", 20), ("minus", -20)):
        save_weights(kit / name, state | {bias: state[bias] + torch.tensor([certainty, -certainty])}, trained.spec)
    make_foreign(kit / "foreign.onnx")
    sys.path.remove(str(kit))


def make_foreign(path: Path) -> None:
    """A classifier of somebody else's, of 600 classes."""
    weights = np.random.default_rng(0).standard_normal((600, 3), np.float32)
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["flat"]),
        onnx.helper.make_node("Gemm", ["flat", "w"], ["y"], transB=1),
    ]
    shapes = {"x": ["batch", 3, 8, 8], "y": ["batch", 600]}
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = onnx.helper.make_graph(nodes, "foreign", [x], [y], [onnx.numpy_helper.from_array(weights, "w")])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.fixture(scope="module", autouse=True)
def _no_other_data():
    """Commands take ``EDGERESNET_DATA`` where they are given no data: here that is none of their classes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EDGERESNET_DATA", raising=False)
        yield


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kit")
    make_kit(folder)
    return folder


@pytest.fixture
def run(run_cli, kit, monkeypatch):
    """Runs a command of the table in this process."""
    monkeypatch.syspath_prepend(kit)
    return lambda name, out: run_cli(*arguments_of(name, kit, out))


@contextmanager
def mounted(folder, options):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no room on the disk of a folder."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            try:
                filler.write(bytes(4096))
            except OSError:
                return


@contextmanager
def without_privileges():
    """Have root heed permissions, as everybody does: capabilities(7), of this thread alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, of 64 capabilities
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "filler"}


def assert_one_line(finished, reason):
    assert finished.status == 1
    assert "Traceback" not in finished.err
    line = finished.err.splitlines()[-1]
    assert line.startswith("error: ")
    assert line.endswith(f": {reason}")  # and which file


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(run, tmp_path, name):
    with mounted(tmp_path, "size=600k"):
        for target in TARGETS[name]:
            (tmp_path / target).write_text("old")
        before = content_of(tmp_path)
        fill(tmp_path)
        if name == "train":
            # Room for the settings, none for the state.
            os.truncate(tmp_path / "filler", (tmp_path / "filler").stat().st_size - 100_000)
        assert_one_line(run(name, tmp_path), "No space left on device")
        after = content_of(tmp_path)
        if name == "train":
            TrainingConfig.from_json(after.pop("run/config.json").decode())
        if name == "resume":
            assert after.pop("classes.jsonl") == b""
        assert after == before


@pytest.mark.parametrize("name", ["export", "train", "predict", "resume"])
def test_a_folder_without_permission_is_one_line(run, tmp_path, name):
    tmp_path.chmod(0o555)
    with without_privileges():
        finished = run(name, tmp_path)
    tmp_path.chmod(0o755)
    assert_one_line(finished, "Permission denied")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bench", "quantize"])
def test_a_file_system_that_is_read_only_is_one_line(run, tmp_path, name):
    with mounted(tmp_path, "ro"):
        assert_one_line(run(name, tmp_path), "Read-only file system")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_stopped_leaves_no_temporary_file(kit, tmp_path, number):
    """As a service manager does, or a terminal that is closed."""
    (tmp_path / "list").write_text(f"{kit}/data/test/red/0.png\n" * 500_000)
    (tmp_path / "out").mkdir()
    arguments = ["--list", tmp_path / "list", "--model", kit / "fp32.onnx", "--format", "csv", "--output", tmp_path / "out" / "classes.csv"]
    command = [sys.executable, "-m", "edgeresnet", "predict", *arguments]
    # Where the tests run under nohup, so would the command, and go on as it is asked to.
    before = signal.signal(number, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(number, before)
        try:
            until = time.monotonic() + 60
            while not list((tmp_path / "out").iterdir()) and time.monotonic() < until:
                time.sleep(0.01)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (128 + number, "")
    assert not list((tmp_path / "out").iterdir())


KILLED = ("export", "train", "quantize", "tune", "bench", "predict", "resume")


def start(name: str, kit: Path, out: Path) -> int:
    """Run a command in a child, which has all modules loaded already, so that a kill meets its work; returns the child's number."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            said = os.open(kit / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor in (1, 2):
                os.dup2(said, descriptor)
            torch.set_num_threads(1)
            edgeresnet(arguments_of(name, kit, out))
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            os._exit(status)
    return child


def finish(name: str, kit: Path, out: Path) -> None:
    _, status = os.waitpid(start(name, kit, out), 0)
    assert status == 0, f"{name} ended with status {os.waitstatus_to_exitcode(status)}: {(kit / 'said').read_text()}"


def kill_once(name: str, kit: Path, out: Path, after_s: float) -> bool:
    """Whether a command was killed that long after it began; False if it was done before."""
    child = start(name, kit, out)
    time.sleep(after_s)
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        # INT8 is not always the faster one on a machine that does other things too.
        assert status == 0 or name == "quantize", (kit / "said").read_text()
        return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def check_whole(path: Path, kit: Path) -> None:
    """A file is as its maker left it, to the end."""
    if path.suffix == ".onnx":
        with Classifier(path, threads=1) as classifier:
            assert classifier.verify().intact
    elif path.name == "deploy.json":
        assert Profile.read(path).model.samefile(kit / "fp32.onnx")
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.name == "classes.csv":
        assert len(path.read_text().splitlines()) == 1 + len(list((kit / "data").rglob("*.png")))
    elif path.name == "log.csv":
        assert all(None not in (*row, *row.values()) for row in csv.DictReader(path.open()))
    elif path.name == "classes.jsonl":
        *whole, _ = path.read_text().split("\n")  # what follows the last line feed is not a line yet
        assert all(json.loads(line)["label"] for line in whole)
    elif path.name == "state.pt":
        TrainingState.load(path, torch.device("cpu"), NAMED[1])
    elif path.name == "weights.safetensors":
        load_weights(path, NAMED[1])
    else:
        Image.open(io.BytesIO(path.read_bytes())).load()


def check_all(out: Path, kit: Path) -> int:
    """Check every file of a folder; returns the number of unfinished ones, which are hidden, and takes them away."""
    unfinished = 0
    for path in [path for path in out.rglob("*") if path.is_file()]:
        if path.name.startswith("."):
            unfinished += 1
            path.unlink()
        else:
            check_whole(path, kit)
    return unfinished


def check_result(name: str, kit: Path, out: Path, straight: Path) -> None:
    """Bring a killed command to its end: what it went on from makes no difference."""
    if name == "train" and (out / "run" / "state.pt").exists():
        COMMANDS["train on"] = [*TRAIN[:-2], *NAMED, "--resume", "--output", "{out}/run"]
        finish("train on", kit, out)
    else:
        finish(name, kit, out)
    if name == "train":
        found, expected = (load_weights(place / "run" / "weights.safetensors", NAMED[1]).model.state_dict() for place in (out, straight))
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    elif name in ("predict", "resume"):
        (file,) = [path.name for path in out.glob("classes.*") if path.suffix == (".csv" if name == "predict" else ".jsonl")]
        found, expected = (sorted((place / file).read_text().splitlines()) for place in (out, straight))
        assert found == expected


def kill_all(kit: Path, folder: Path, kills: int, chance: random.Random) -> str:
    """Kill the commands in turns, with and without an older result in the place of the new one; returns what happened."""
    straight = folder / "straight"
    seconds = {}
    for name in KILLED:
        started = time.perf_counter()
        finish(name, kit, straight)
        seconds[name] = time.perf_counter() - started
    check_all(straight, kit)
    counts = dict.fromkeys(KILLED, 0)
    unfinished = resumed = 0
    while sum(counts.values()) < kills:
        name = min(counts, key=lambda name: counts[name])
        out = folder / f"out{chance.random()}"
        if counts[name] % 2 and name not in ("train", "resume"):
            shutil.copytree(straight, out)
        if not kill_once(name, kit, out, chance.uniform(0, seconds[name])):
            shutil.rmtree(out)
            continue
        counts[name] += 1
        if out.exists():
            unfinished += check_all(out, kit)
        if name in ("train", "predict", "resume"):
            check_result(name, kit, out, straight)
            resumed += 1
        shutil.rmtree(out, ignore_errors=True)
    times = ", ".join(f"{name} {count} times in {seconds[name]:.1f} s" for name, count in counts.items())
    return f"{sum(counts.values())} kills ({times}); {unfinished} left an unfinished file, hidden; {resumed} went on to the same result"


def test_a_killed_command_leaves_the_old_file_or_the_new_one(kit, tmp_path):
    """In a process of its own, since a fork and this one's threads do not go together."""
    command = [sys.executable, __file__, "--kills", str(len(KILLED)), "--kit", kit]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{len(KILLED)} kills (export 1 times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kit", type=Path, help="what the commands read, if it is there already")
    arguments = parser.parse_args()
    os.environ.pop("EDGERESNET_DATA", None)
    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory() as name:
        kit = arguments.kit or Path(name) / "kit"
        if arguments.kit is None:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                make_kit(kit)
        sys.path.insert(0, str(kit))  # a state is of the network that it names
        print(kill_all(kit, Path(name), arguments.kills, random.Random(arguments.seed)))


if __name__ == "__main__":
    main()
