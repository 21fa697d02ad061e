"""What tests of the commands' options share."""

import json

import pytest

from edgeresnet.errors import EdgeResNetError
from edgeresnet.profile import Profile
from edgeresnet.target import Target


class ArrivedError(EdgeResNetError):
    """Ends a command where its work would begin."""


class Door:
    """Stands in front of a function: notes what arrives, and ends the command or lets it through."""

    def __init__(self, function=None):
        self.calls, self._function = [], function

    def __call__(self, *positional, **named):
        self.calls.append((positional, named))
        if self._function is None:
            raise ArrivedError("arrived")
        return self._function(*positional, **named)

    @property
    def arrived(self):
        (call,) = self.calls
        return call

    @property
    def named(self):
        return self.arrived[1]


@pytest.fixture
def door(monkeypatch):
    def put(place, function=None):
        made = Door(function)
        monkeypatch.setattr(place, made)
        return made

    return put


@pytest.fixture
def files(exports, weights, labelled_folder, uneven_folder, tmp_path):
    """Names for what the options below speak of."""
    profile = tmp_path / "deploy.json"
    Profile.of(exports["fp32"].path, Target(threads=2, streams=2, micro_batch=5), images_per_call=1, p50_ms=1.0).write(profile)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"epochs": 7, "cutout": 3, "lr": 0.3, "seed": 5, "small_sizes": [[2, 16]]}))
    return {
        "fp32": exports["fp32"].path,
        "int8": exports["int8"].path,
        "weights": weights,
        "data": uneven_folder,
        "image": labelled_folder / "test" / "cat" / "0.png",
        "profile": profile,
        "recipe": recipe,
        "out": tmp_path / "out",
    }
