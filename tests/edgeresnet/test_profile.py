import json
import shutil

import pytest

from edgeresnet import Classifier
from edgeresnet.errors import ModelFormatError, ModelNotFoundError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.machine import cpu_model
from edgeresnet.modelfile import read_model_file
from edgeresnet.profile import Profile
from edgeresnet.target import Target


@pytest.fixture
def profile(exports, tmp_path):
    """A profile in one folder with its model."""
    model = tmp_path / "deploy" / "model.onnx"
    model.parent.mkdir()
    shutil.copy(exports["int8"].path, model)
    target = Target(threads=1, streams=1)
    written = Profile(model=model, model_sha256=read_model_file(model).sha256, target=target, cpu="Abacus", images_per_call=1, p50_ms=2.5)
    written.write(model.parent / "deploy.json")
    return model.parent / "deploy.json"


def test_it_moves_together_with_its_model(profile, tmp_path):
    moved = profile.parent.rename(tmp_path / "elsewhere") / "deploy.json"
    read = Profile.read(moved)
    assert (read.target, read.p50_ms) == (Target(threads=1, streams=1), 2.5)
    with Classifier.from_profile(moved) as classifier:
        assert classifier.session.target == read.target
        assert classifier.logits(synthetic_images(32, 3)).shape == (3, 10)


def test_another_machine_is_pointed_out(profile):
    assert Profile.read(profile).elsewhere == f"the profile was measured on Abacus, this is {cpu_model()}: tune again for its best"


def test_another_model_than_the_measured_one_is_refused(profile, exports):
    shutil.copy(exports["fp32"].path, profile.parent / "model.onnx")
    with pytest.raises(ModelFormatError, match=r"model\.onnx: is not the model that .*deploy\.json was measured with"):
        Classifier.from_profile(profile)
    (profile.parent / "model.onnx").unlink()
    with pytest.raises(ModelNotFoundError):
        Classifier.from_profile(profile)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"threads": 1.5}, "threads must be a whole number, not 1.5"),
        ({"threads": float("nan")}, "threads must be a whole number, not nan"),
        ({"streams": "2"}, "streams must be a whole number, not '2'"),
        ({"micro_batch": 4}, "micro_batch must be 1 for a dynamically quantized model, not 4"),
    ],
)
def test_settings_that_make_no_sense_are_refused_as_what_the_file_says(profile, setting, message):
    entries = json.loads(profile.read_text())
    entries["target"] |= setting
    profile.write_text(json.dumps(entries))
    with pytest.raises(ModelFormatError, match=message):
        Classifier.from_profile(profile)


@pytest.mark.parametrize("broken", ["no JSON", "[]", "{}", '{"schema": "edgeresnet.profile/2", "model": "m", "target": {"speed": 9}}'])
def test_what_is_no_profile_is_refused(tmp_path, broken):
    path = tmp_path / "deploy.json"
    path.write_text(broken)
    with pytest.raises(ModelFormatError, match="is not a profile"):
        Profile.read(path)


def test_a_newer_form_and_a_missing_file_say_so(profile, tmp_path):
    entries = json.loads(profile.read_text()) | {"schema": "edgeresnet.profile/9"}
    profile.write_text(json.dumps(entries))
    with pytest.raises(ModelFormatError, match=r"edgeresnet\.profile/9"):
        Profile.read(profile)
    with pytest.raises(ModelNotFoundError, match=r"none\.json"):
        Profile.read(tmp_path / "none.json")
