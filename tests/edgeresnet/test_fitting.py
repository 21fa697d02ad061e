"""An image becomes the pixels that torchvision's and timm's evaluation transforms make of it, one by one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, Grayscale, InterpolationMode, Resize
from torchvision.transforms._presets import ImageClassification

from edgeresnet.decoding import MAX_PIXELS
from edgeresnet.errors import ImageError
from edgeresnet.images import to_pixels
from edgeresnet.spec import ImageInput

# Width and height: larger and smaller than the inputs, upright, lying and square, odd and even.
SIZES = [(500, 375), (375, 500), (333, 501), (640, 640), (100, 77), (77, 100), (31, 240), (224, 224), (257, 256), (1, 1)]


def photograph(size, seed=0):
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = generator.integers(-40, 40, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse, np.int16) + noise, 0, 255).astype(np.uint8))


def pixels_of(image):
    return np.asarray(image.convert("RGB") if image.mode != "L" else image)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (224, 224), (35, 32), (64, 96)])
@pytest.mark.parametrize("filter_name", ["bilinear", "bicubic"])
def test_torchvisions_presets(size, resize, crop, filter_name):
    image = photograph(size)
    preset = ImageClassification(
        crop_size=crop, resize_size=resize, interpolation=InterpolationMode(filter_name), mean=(0, 0, 0), std=(1, 1, 1)
    )
    expected = (255 * preset(image)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    wanted = ImageInput(height=crop, width=crop, fit="crop", frame=(resize, resize), filter=filter_name)
    assert np.array_equal(to_pixels(image, wanted), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    ("input_size", "crop_pct", "mode", "filter_name"),
    [
        ((224, 224), 0.875, "center", "bicubic"),
        ((224, 224), 0.9, "center", "bilinear"),
        ((288, 288), 1.0, "center", "bicubic"),
        ((160, 224), 0.95, "center", "bicubic"),
        ((240, 240), 0.9, "squash", "bicubic"),
        ((192, 256), 1.0, "squash", "lanczos"),
        ((224, 224), 0.95, "border", "bicubic"),
        ((192, 256), 1.0, "border", "nearest"),
        ((224, 224), 0.875, "center", "hamming"),
        ((224, 224), 0.875, "center", "box"),
    ],
)
def test_timms_evaluation_transforms(size, input_size, crop_pct, mode, filter_name):
    image = photograph(size)
    mean = (0.485, 0.456, 0.406)
    transform = create_transform((3, *input_size), crop_pct=crop_pct, crop_mode=mode, interpolation=filter_name, mean=mean, normalize=False)
    expected = transform(image).permute(1, 2, 0).numpy()
    wanted = ImageInput(
        height=input_size[0],
        width=input_size[1],
        fit={"center": "crop", "squash": "stretch", "border": "letterbox"}[mode],
        frame=tuple(int(side / crop_pct) for side in input_size),
        filter=filter_name,
        fill=tuple(round(255 * value) for value in mean) if mode == "border" else (0, 0, 0),
    )
    assert np.array_equal(to_pixels(image, wanted), expected)


def test_a_photograph_is_turned_upright_first():
    image = photograph((500, 375))
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(stream, "PNG", exif=exif)
    wanted = ImageInput(height=224, width=160, fit="crop", frame=(256, 256))
    upright = Compose([Resize(256), CenterCrop((224, 160))])(image.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(to_pixels(stream.getvalue(), wanted), np.asarray(upright))


def test_a_grey_input_gets_the_luminance():
    image = photograph((60, 40))
    wanted = ImageInput(height=28, width=28, channels=1, fit="letterbox", fill=(255, 255, 255))
    pixels = to_pixels(image, wanted)
    grey = Grayscale()(image).resize((28, 19), Image.Resampling.BILINEAR)
    assert pixels.shape == (28, 28, 1)
    assert np.array_equal(pixels[4:23, :, 0], np.asarray(grey))
    assert (pixels[:4] == 255).all()
    assert (pixels[23:] == 255).all()


def test_an_image_of_the_inputs_size_keeps_its_pixels():
    image = photograph((48, 32))
    for fit in ("stretch", "crop", "letterbox"):
        assert np.array_equal(to_pixels(image, ImageInput(height=32, width=48, fit=fit, filter="lanczos")), np.asarray(image))


def test_an_image_that_the_fit_would_blow_up_is_refused():
    stripe = Image.new("RGB", (1, MAX_PIXELS // 100))
    with pytest.raises(ImageError, match=r"becomes 256 x 128,?000,?000 here, more than the limit"):
        to_pixels(stripe, ImageInput(height=224, width=224, fit="crop", frame=(256, 256)))
    assert to_pixels(stripe, ImageInput(height=224, width=224, fit="letterbox")).shape == (224, 224, 3)
