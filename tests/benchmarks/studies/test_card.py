import json

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.corruptions import CORRUPTIONS, STRENGTHS
from benchmarks.studies.card import best_scores, command, expected_calibration_error
from edgeresnet import Classifier
from edgeresnet.datasets import read_split
from edgeresnet.evaluation import synthetic_images, top1

IMAGES = synthetic_images(32, 6)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_corruption_is_stronger_than_the_one_before_and_repeats(kind):
    corrupt = CORRUPTIONS[kind]
    before = IMAGES.copy()
    distances = [np.abs(corrupt(IMAGES, strength).astype(int) - IMAGES).mean() for strength in STRENGTHS]
    assert 0.5 < distances[0] < distances[1] < distances[2] < 90
    np.testing.assert_array_equal(corrupt(IMAGES, 2), corrupt(IMAGES, 2))
    np.testing.assert_array_equal(IMAGES, before)
    assert (corrupt(IMAGES, 1).dtype, corrupt(IMAGES, 1).shape) == (np.uint8, IMAGES.shape)


def test_the_calibration_error_is_the_gap_between_score_and_share():
    """Scores of 0.9 of which 6 in 10 are right, and of 0.6 of which 6 in 10 are right."""
    logits = np.log(np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10, np.float32))
    labels = np.array(([0] * 6 + [1] * 4) * 2)
    assert expected_calibration_error(logits, labels) == pytest.approx(0.15, abs=1e-6)
    np.testing.assert_allclose(best_scores(logits + 5), [0.9] * 10 + [0.6] * 10, rtol=1e-5)
    sure = np.array([[99, 0]] * 4, np.float32)
    assert expected_calibration_error(sure, np.array([0, 0, 0, 0])) == 0.0


def test_the_command_prints_the_card(exports, labelled_folder):
    path = exports["int8"].path
    result = CliRunner().invoke(command, [str(path), "--data", str(labelled_folder), "--corrupt", "10"])
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    test = read_split(labelled_folder, "test")
    assert card["top1"] == top1(Classifier(path).logits(test.images), test.labels)
    assert (card["count"], card["corrupted_count"], list(card["corrupted"])) == (30, 10, list(CORRUPTIONS))
    assert card["top1_interval95"][0] < card["top1"] < card["top1_interval95"][1]


def test_other_classes_are_one_clear_error(exports, image_folder):
    result = CliRunner().invoke(command, [str(exports["int8"].path), "--data", str(image_folder)])
    assert result.exit_code == 1
    assert "classes" in result.output
