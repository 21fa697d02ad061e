import json

import pytest

from edgeresnet.machine import cpu_model
from edgeresnet.profile import Profile
from edgeresnet.target import Target


@pytest.fixture
def profile(exports, tmp_path):
    path = tmp_path / "deploy.json"
    Profile.of(exports["int8"].path, Target(threads=1), images_per_call=1, p50_ms=1.0).write(path)
    return path


def test_a_profile_takes_the_place_of_model_and_settings(run_cli, exports, labelled_folder, tmp_path):
    profile = tmp_path / "deploy.json"
    result = run_cli("tune", exports["int8"].path, "--budget", 0, "--threads", 1, "--provider", "cpu", "--output", profile)
    assert result.status == 0, result.err
    assert "resnet18-int8.onnx" in result.out
    assert f"predict --profile {profile}" in result.err
    image = labelled_folder / "test" / "cat" / "0.png"
    tuned = run_cli("predict", image, "--profile", profile, "--format", "json")
    assert (tuned.status, tuned.err) == (0, "")
    plain = run_cli("predict", image, "--model", json.loads(profile.read_text())["model"], "--threads", 1, "--format", "json")
    assert plain.status == 2  # the path is relative to the profile
    evaluated = run_cli("eval", "--profile", profile, "--data", labelled_folder, "--no-original", "--format", "json")
    assert json.loads(evaluated.out)["model"] == "resnet18-int8.onnx"
    record = json.loads(run_cli("bench", "--profile", profile, "--no-original", "--min-time", 0, "--format", "json").out)
    assert record["settings"]["threads"] == 1
    assert [result["name"] for result in record["results"]] == ["resnet18-int8.onnx"]


def test_a_profile_of_another_machine_is_noted(run_cli, profile, labelled_folder):
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"cpu": "Abacus"}))
    result = run_cli("predict", labelled_folder / "test" / "cat" / "0.png", "--profile", profile)
    assert result.status == 0
    assert result.err == f"note: the profile was measured on Abacus, this is {cpu_model()}: tune again for its best\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "x.png", "--threads", "1"), "--threads cannot change what --profile sets"),
        (("predict", "x.png", "--provider-option", "device_id=1"), "--provider-option cannot change"),
        (("predict", "x.png", "--model", "{model}"), "--model cannot change"),
        (("bench", "{model}"), "MODEL cannot change"),
        (("eval", "{model}"), "either MODEL or --profile"),
    ],
)
def test_a_profile_and_what_it_sets_do_not_go_together(run_cli, exports, profile, arguments, message):
    result = run_cli(*(argument.format(model=exports["fp32"].path) for argument in arguments), "--profile", profile)
    assert result.status == 2
    assert message in result.err


def test_tune_prints_every_way_as_json(run_cli, exports, image_folder):
    result = run_cli("tune", exports["fp32"].path, "--budget", 0, "--threads", 2, "--format", "json")
    tuning = json.loads(result.out)
    assert tuning["schema"] == "edgeresnet.tuning/1"
    assert sorted(c["target"]["threads"] for c in tuning["candidates"]) == [1, 2]
    assert all(c["p50_ms"] > 0 and c["agreement"] == 1.0 for c in tuning["candidates"])
    assert "built without CUDA" in tuning["unavailable"]["cuda"]
    wrong = run_cli("tune", exports["fp32"].path, "--data", image_folder)
    assert (wrong.status, wrong.out) == (1, "")
    assert "classes" in wrong.err
    assert run_cli("tune", exports["fp32"].path, "--max-drop", 1).status == 2
