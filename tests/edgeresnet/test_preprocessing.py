import math
from dataclasses import replace

import click
import pytest
from click.testing import CliRunner

from edgeresnet.cli.preprocessing import preprocessing_options
from edgeresnet.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Changes, Preprocessing, frame_of
from edgeresnet.spec import ImageInput

PLAIN = Preprocessing(input=ImageInput(height=64, width=96), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CROPPED = replace(PLAIN, input=ImageInput(height=224, width=224, fit="crop", frame=(256, 256), filter="bicubic"))


def test_nothing_said_changes_nothing():
    assert Changes().apply(PLAIN) == PLAIN
    assert Changes().apply(CROPPED) == CROPPED


def test_the_preset_is_imagenets_and_the_rest_wins_over_it():
    assert Changes(preset="imagenet", size=(224, 224)).apply(PLAIN) == Preprocessing(
        input=ImageInput(height=224, width=224, fit="crop", frame=(256, 256), filter="bilinear"), mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
    changed = Changes(preset="imagenet", fit="letterbox", filter="lanczos", mean=(0.5, 0.4, 0.3)).apply(PLAIN)
    assert (changed.input.fit, changed.input.frame, changed.input.filter) == ("letterbox", None, "lanczos")
    assert (changed.mean, changed.std) == ((0.5, 0.4, 0.3), IMAGENET_STD)


def test_a_crop_keeps_its_share_of_the_image_at_another_size():
    assert Changes(size=(112, 112)).apply(CROPPED).input == replace(CROPPED.input, height=112, width=112, frame=(128, 128))
    assert Changes(size=(32, 48)).apply(PLAIN).input == ImageInput(height=32, width=48)
    assert Changes(fit="crop").apply(PLAIN).input.frame == (math.floor(64 / 0.875), math.floor(96 / 0.875))
    assert frame_of(224, 224, 1.0) is None


def test_resize_is_the_shorter_side_before_a_crop_and_both_sides_of_what_is_stretched():
    assert Changes(resize=232).apply(CROPPED).input.frame == (232, 232)
    assert Changes(fit="crop", resize=64).apply(PLAIN).input.frame == (64, 64)
    stretched = Changes(resize=80).apply(PLAIN).input
    assert (stretched.fit, stretched.frame) == ("stretch", (80, 80))
    with pytest.raises(ValueError, match="a letterbox shows the whole image"):
        Changes(fit="letterbox", resize=80).apply(PLAIN)
    with pytest.raises(ValueError, match="at least the input's shorter side, 224, not 200"):
        Changes(resize=200).apply(CROPPED)


def test_equal_values_are_good_for_any_number_of_channels():
    grey = Preprocessing(input=ImageInput(height=28, width=28, channels=1), mean=(0.0,), std=(1.0,))
    assert Changes(mean=(0.5, 0.5, 0.5), std=(0.25,)).apply(grey) == replace(grey, mean=(0.5,), std=(0.25,))
    assert Changes(mean=(0.5,)).apply(PLAIN).mean == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match=r"mean must be a number for each of the 1 channel\(s\)"):
        Changes(mean=(0.1, 0.2, 0.3)).apply(grey)
    with pytest.raises(ValueError, match="std must be above zero"):
        Changes(std=(0.0,)).apply(PLAIN)
    with pytest.raises(ValueError, match="mean must be a number"):
        Changes(mean=(float("nan"),)).apply(PLAIN)


@click.command()
@preprocessing_options
def show(changes):
    print(changes)


@pytest.mark.parametrize(("text", "size"), [("224x192", (224, 192)), ("96", (96, 96)), ("8X9", (8, 9))])
def test_the_options_say_the_changes(text, size):
    arguments = ["--size", text, "--mean", "0.1", "0.2", "0.3", "--fit", "crop", "--resize", "256", "--filter", "bicubic"]
    result = CliRunner().invoke(show, arguments)
    assert result.output.strip() == str(Changes(size=size, mean=(0.1, 0.2, 0.3), fit="crop", resize=256, filter="bicubic"))


@pytest.mark.parametrize("text", ["0", "224x", "axb", "1x2x3", "-3", "٣"])
def test_a_size_that_is_none_is_refused(text):
    result = CliRunner().invoke(show, ["--size", text])
    assert result.exit_code == 2
    assert "is not HEIGHTxWIDTH" in result.output
