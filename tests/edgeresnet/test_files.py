"""Files are the old ones or the new ones, whatever happens while they are written.

The tests kill a training and writers of files a few times each; the long form is a command:

    python tests/edgeresnet/test_files.py --kills 100
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgeresnet.files import replacing, write_text
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.run import run_training
from edgeresnet.training.state import TrainingState
from edgeresnet.training.weights import load_weights

CPU = torch.device("cpu")
CONFIG = TrainingConfig(epochs=4, batch_size=8, lr=0.02, image_size=8, cutout=2, crop_padding=1, validation_fraction=0.2)


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    write_text(target, "old")
    with pytest.raises(TypeError), replacing(target) as temporary:
        temporary.write_text("half") + "and no more"
    with pytest.raises(FileNotFoundError), replacing(target):
        pass  # nothing was written
    assert [(path.name, path.read_text()) for path in target.parent.iterdir()] == [("file.txt", "old")]


def test_names_of_any_length_that_the_system_takes_can_be_written(tmp_path):
    target = tmp_path / ("x" * 250 + ".json")
    write_text(target, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_threads_that_write_the_same_file_do_not_mix(tmp_path):
    target = tmp_path / "file"
    texts = [f"{i}" * 200_000 for i in range(4)]
    threads = [threading.Thread(target=lambda text=text: [write_text(target, text) for _ in range(10)]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts
    assert list(tmp_path.iterdir()) == [target]


WRITERS = {
    "export": ["export", "{weights}", "--precision", "int8", "--output", "{folder}/models"],
    "train": ["train", "--data", "{images}", "--epochs", "1", "--image-size", "8", "--output", "{folder}/run"],
    "predict": ["predict", "{images}", "--format", "csv", "--output", "{folder}/classes.csv"],
    "bench": ["bench", "--no-original", "--min-time", "0", "--output", "{folder}/record.json"],
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_cannot_be_written_to_is_one_line(run_cli, weights, image_folder, tmp_path, monkeypatch, name):
    """As in a read-only installation; a file in the place of a folder stands for it, since root may write anywhere else."""
    (tmp_path / "file").touch()
    places = {"folder": tmp_path / "file", "weights": weights, "images": image_folder}
    result = run_cli(*(argument.format(**places) for argument in WRITERS[name]))
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def kill_at_random(work, chance: random.Random, most_s: float) -> bool:
    """Run ``work`` in a child and kill that at a random moment, if it is not done before; returns whether it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # What it prints, warnings of a fork with threads among it, is nobody's business.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            work()
            status = 0
        finally:
            os._exit(status)
    until = time.monotonic() + chance.uniform(0, most_s)
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, f"the child failed with status {status}"
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def check_run(output: Path) -> None:
    """Every file of a training run is whole or not there."""
    for path in output.iterdir() if output.exists() else ():
        if path.name == "state.pt":
            TrainingState.load(path, CPU)
        elif path.name == "config.json":
            assert TrainingConfig.from_json(path.read_text()) == CONFIG
        elif path.name == "log.csv":
            epochs = [int(row["epoch"]) for row in csv.DictReader(path.open())]
            assert epochs == list(range(1, len(epochs) + 1))
        elif path.name == "curves.png":
            with Image.open(path) as image:
                image.load()
        elif path.name == "weights.safetensors":
            load_weights(path)
        else:
            assert path.name.startswith("."), path


def kill_training(data: Path, folder: Path, kills: int, chance: random.Random, most_s: float) -> int:
    """Kill a training again and again, resume it each time, and compare what comes out with a run that nobody disturbed.

    Returns:
        The number of runs that came to their end between the kills.
    """
    straight = folder / "straight"
    run_training(CONFIG, data, straight, device=CPU)
    expected = load_weights(straight / "weights.safetensors").model.network.state_dict()
    killed = finished = 0
    while killed < kills or not finished:
        output = folder / f"run{finished}"

        def go_on(output=output):
            config = None if (output / "state.pt").exists() else CONFIG
            run_training(config, data, output, device=CPU)

        if kill_at_random(go_on, chance, most_s if killed < kills else 600):
            killed += 1
            check_run(output)
            continue
        check_run(output)
        found = load_weights(output / "weights.safetensors").model.network.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        shutil.rmtree(output)
        finished += 1
    return finished


def kill_writers(folder: Path, kills: int, chance: random.Random) -> None:
    """Kill a process that does nothing but write a report and a model, each a megabyte of one letter, again and again."""
    report, model = folder / "report.json", folder / "model.onnx"

    def write():
        for i in range(10_000):
            letter = "abcdefgh"[i % 8]
            write_text(report, json.dumps([letter] * 200_000))
            with replacing(model) as temporary:
                temporary.write_bytes(letter.encode() * 1_000_000)

    for _ in range(kills):
        assert kill_at_random(write, chance, 0.2)
        if report.exists():
            assert len(set(json.loads(report.read_text()))) == 1
        if model.exists():
            content = model.read_bytes()
            assert (len(set(content)), len(content)) == (1, 1_000_000)
        assert all(path in (report, model) or path.name.startswith(".") for path in folder.iterdir())
        for leftover in folder.glob(".*"):
            leftover.unlink()


def make_images(folder: Path) -> Path:
    """A data set of two classes, 8x8."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for colour, label in enumerate(("red", "green")):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(0, 120, (8, 8, 3), np.uint8)
                pixels[..., colour] += 120
                Image.fromarray(pixels).save(folder / split / label / f"{i}.png")
    return folder


def test_a_killed_process_leaves_old_files_or_new_ones_and_training_resumes(tmp_path):
    """In a process of its own, since a fork and this one's threads do not go together."""
    done = subprocess.run([sys.executable, __file__, "--kills", "4"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("4 kills of a training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        data = make_images(Path(name) / "data")
        for warm in ("cold", "warm"):
            started = time.perf_counter()
            run_training(CONFIG, data, Path(name) / warm, device=CPU)
        most_s = time.perf_counter() - started
        finished = kill_training(data, Path(name), arguments.kills, chance, most_s)
        (Path(name) / "files").mkdir()
        kill_writers(Path(name) / "files", arguments.kills, chance)
    print(
        f"{arguments.kills} kills of a training, {finished} runs came to their end between them with the weights of an undisturbed one; "
        f"{arguments.kills} kills of a writer; no file was half of one"
    )


if __name__ == "__main__":
    main()
