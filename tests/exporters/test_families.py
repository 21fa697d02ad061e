"""Networks of many families, with random weights, the whole way by the command. EDGERESNET_FAMILIES=1 runs them, in half an hour.

Random weights make every error grow from layer to layer, as trained ones do not: how close a quantized form comes is printed (``-s``), and
held to no more than that it answers at all.
"""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from edgeresnet.evaluation import compare_logits, synthetic_images
from edgeresnet.preprocessing import Changes
from edgeresnet.session import Session
from edgeresnet.spec import PRECISIONS
from edgeresnet.training.networks import file_stem, find_network
from edgeresnet.training.norms import estimate_norms
from edgeresnet.training.weights import load_weights

pytestmark = pytest.mark.skipif(not os.environ.get("EDGERESNET_FAMILIES"), reason="takes half an hour: EDGERESNET_FAMILIES=1 runs it")

# Side of the images; those of None take one size alone.
FAMILIES = {
    "torchvision:resnet18": 128,
    "torchvision:resnet50": 96,
    "torchvision:mobilenet_v2": 128,
    "torchvision:mobilenet_v3_small": 128,
    "torchvision:efficientnet_b0": 128,
    "torchvision:shufflenet_v2_x1_0": 128,
    "torchvision:squeezenet1_1": 128,
    "torchvision:densenet121": 96,
    "torchvision:regnet_y_400mf": 128,
    "torchvision:googlenet": 128,
    "torchvision:mnasnet1_0": 128,
    "torchvision:convnext_tiny": 96,
    "torchvision:swin_t": None,
    "timm:resnet18.a1_in1k": 128,
    "timm:mobilenetv3_small_100.lamb_in1k": 128,
    "timm:efficientnet_lite0": 128,
    "timm:repvgg_a0": 128,
    "timm:ghostnet_100": 96,
    "timm:deit_tiny_patch16_224": None,
    "timm:mixnet_s": 96,
    "timm:convnextv2_atto": 96,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_goes_the_whole_way(run_cli, tmp_path, name):
    side = FAMILIES[name]
    blueprint = find_network(name)
    usual = blueprint.preprocess((side, side) if side else None, "")
    torch.manual_seed(0)
    network = blueprint.build(blueprint.classes)
    # With the initial statistics activations vanish or explode.
    estimate_norms(network, synthetic_images(usual.input, 16, seed=5), usual)
    torch.save(network.state_dict(), tmp_path / "random.pth")
    (tmp_path / "train" / "any").mkdir(parents=True)
    for number, pixels in enumerate(synthetic_images(256, 16, seed=11)):
        Image.fromarray(pixels).save(tmp_path / "train" / "any" / f"{number}.png")
    arguments = [
        "export",
        "--network",
        name,
        "--weights",
        tmp_path / "random.pth",
        "--output",
        tmp_path,
        "--data",
        tmp_path,
        "--min-db",
        -50,
    ]
    arguments += ["--size", side] if side else []
    images = synthetic_images(usual.input, 8, seed=9)
    changes = Changes(size=(side, side)) if side else Changes()
    expected = load_weights(tmp_path / "random.pth", name, changes=changes).logits(images)
    closeness = {}
    for precision in PRECISIONS:
        result = run_cli(*arguments, "--precision", precision)
        if result.status:
            assert precision.startswith("int8"), result.err
            assert f"error: {precision}: nothing to quantize" in result.err
            continue
        answers = Session(tmp_path / f"{file_stem(name)}-{precision}.onnx").logits(images)
        closeness[precision] = round(compare_logits(expected, answers).sqnr_db, 1)
        assert np.isfinite(answers).all()
        if precision == "fp32":
            assert np.abs(answers - expected).max() < 1e-4 * np.abs(expected).max()
    print(f"{name}: {closeness}")
