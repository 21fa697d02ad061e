"""The oldest versions that pyproject.toml allows, and every Python that it names and this machine has: an image gets the same class."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from edgeresnet import Classifier
from edgeresnet.evaluation import synthetic_images

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]

ANSWERS = """
import json, sys
import numpy as np
from PIL import Image
from edgeresnet import Classifier
with Classifier(threads=1) as classifier:
    predictions = classifier.predict_batch(sys.argv[1:])
print(json.dumps([[p.label, p.probabilities.tolist()] for p in predictions]))
"""


def oldest(requirements):
    """Each requirement at the least version that it allows."""
    return [re.sub(r">=([\d.]+).*", r"==\1", requirement) for requirement in requirements]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("versions")
    for i, pixels in enumerate(synthetic_images(32, 6)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def answers_of(python, packages, images, folder):
    subprocess.run([python, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    install = [sys.executable, "-m", "pip", "--python", folder / "venv", "install", "--quiet", "--only-binary", ":all:", *packages]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"pip cannot install {' '.join(packages)}: {installed.stderr.strip().splitlines()[-1]}")
    environment = {key: value for key, value in os.environ.items() if key != "EDGERESNET_DATA"} | {"PYTHONPATH": str(ROOT)}
    command = [folder / "venv" / "bin" / "python", "-W", "error", "-c", ANSWERS, *images]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    by_command = [command[0], "-m", "edgeresnet", "predict", *images]
    done_too = subprocess.run(by_command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done_too.returncode == 0, done_too.stderr
    return json.loads(done.stdout)


def assert_same(found, images):
    with Classifier(threads=1) as classifier:
        for (label, probabilities), prediction in zip(found, classifier.predict_batch(images), strict=True):
            assert label == prediction.label
            assert probabilities == pytest.approx(prediction.probabilities.tolist(), abs=1e-3)


def test_the_oldest_versions_that_are_allowed_give_the_same_answers(images, tmp_path):
    if PYTHONS[0] != HERE:
        pytest.skip(f"the oldest versions are those of Python {PYTHONS[0]}")
    packages = oldest([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]])
    assert all("==" in package for package in packages)
    assert_same(answers_of(sys.executable, packages, images, tmp_path), images)


@pytest.mark.parametrize("version", [version for version in PYTHONS if version != HERE])
def test_every_python_that_is_named_gives_the_same_answers(images, tmp_path, version):
    python = shutil.which(f"python{version}")
    # A version manager's stand-in is there for versions that are not.
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"no python{version} on the path")
    assert_same(answers_of(python, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]], images, tmp_path), images)
