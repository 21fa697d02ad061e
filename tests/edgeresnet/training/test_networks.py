import sys
from dataclasses import replace

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torchvision.models import ResNet50_Weights, Swin_T_Weights
from torchvision.transforms.functional import center_crop, resize

from edgeresnet.errors import CheckpointError, MissingExtraError, NetworkError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.images import to_pixels
from edgeresnet.preprocessing import IMAGENET_MEAN
from edgeresnet.training.networks import file_stem, find_network, find_stored
from edgeresnet.training.pixels import try_network
from edgeresnet.training.weights import load_weights, save_weights

PHOTOGRAPH = Image.fromarray(synthetic_images(300, 1, seed=2)[0][:, :211])

OWN = """
from pathlib import Path
Path("imported").touch()
import neighbour
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=5, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(width, num_classes)
    def forward(self, images):
        return {"features": self.body(images), "logits": self.classifier(self.body(images))}

def grey(classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes), nn.Softmax(1))

def fails(num_classes):
    raise KeyError("nothing here")

number = 3
text = lambda: "a text"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a user's modules, which is the current one."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("own_networks", "neighbour"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "weights"), [("resnet50", ResNet50_Weights.DEFAULT), ("swin_t", Swin_T_Weights.DEFAULT)])
def test_torchvisions_own_transforms_are_what_is_usual(name, weights):
    blueprint = find_network(f"torchvision:{name}")
    usual, theirs = blueprint.preprocess(None, ""), weights.transforms()
    expected = center_crop(resize(PHOTOGRAPH, theirs.resize_size, theirs.interpolation), theirs.crop_size)
    assert np.array_equal(to_pixels(PHOTOGRAPH, usual.input), np.asarray(expected))
    assert (usual.mean, usual.std) == (tuple(theirs.mean), tuple(theirs.std))
    assert blueprint.labels == tuple(weights.meta["categories"])
    assert blueprint.preprocess((112, 112), "").input.frame == (theirs.resize_size[0] // 2,) * 2


def test_torchvisions_files_are_known_by_their_checksum():
    preprocess = find_network("torchvision:resnet50").preprocess
    assert preprocess(None, "11ad3fa6" + 56 * "0").input.frame == (232, 232)
    assert preprocess(None, "0676ba61" + 56 * "0").input.frame == (256, 256)


def test_what_scales_its_own_input_is_described_by_the_result():
    """With torchvision's weights GoogLeNet goes on from ImageNet's mean and deviation to these."""
    assert find_network("torchvision:googlenet").preprocess(None, "").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["resnet50.a1_in1k", "repvgg_a0", "dm_nfnet_f0", "convnextv2_huge", "deepseek_vit_412m"])
def test_timms_own_transform_is_what_is_usual(name):
    usual = find_network(f"timm:{name}").preprocess(None, "")
    settings = resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
    transform = create_transform(**settings, normalize=False)
    assert np.array_equal(to_pixels(PHOTOGRAPH, usual.input), np.asarray(transform(PHOTOGRAPH)).transpose(1, 2, 0))
    assert (usual.mean, usual.std) == (settings["mean"], settings["std"])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("resnet50", r"unknown network 'resnet50'.*torchvision:NAME"),
        ("torchvision:resnet51", r"torchvision has no classifier 'resnet51' \(close: .*resnet50"),
        ("torchvision:fcn_resnet50", "torchvision has no classifier"),
        ("timm:mobilnetv3_small_100", r"timm has no classifier .*mobilenetv3_small_100"),
        ("timm:hf-hub:somebody/model", "timm has no classifier"),
        ("timm:local-dir:/tmp", "timm has no classifier"),
        ("timm:resnet50.mine", "timm's resnet50 has no weights 'mine'; it has .*a1_in1k"),
        ("no_such_module:build", "there is no module 'no_such_module' in the current folder"),
        ("own_networks:Nett", r"own_networks has no 'Nett' \(close: Net"),
        ("own_networks:number", "is a int, not something that builds a network"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is_close(own, name, complaint):
    with pytest.raises(NetworkError, match=complaint):
        find_network(name)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgeresnet\[timm\]'"):
        find_network("timm:resnet18")


def test_a_network_of_ones_own_is_built_for_the_classes(own):
    path = list(sys.path)
    blueprint = find_network("own_networks:Net")
    network = blueprint.build(7)
    assert sys.path == path
    assert network.classifier.out_features == 7
    usual = blueprint.preprocess((32, 32), "")
    assert usual.mean == IMAGENET_MEAN
    assert not blueprint.tells_normalization
    assert try_network(network, usual, blueprint.name) == (7, "logits")
    with pytest.raises(NetworkError, match="does not say at what size"):
        blueprint.preprocess(None, "")
    grey = find_network("own_networks:grey")
    assert try_network(grey.build(4), grey.preprocess((16, 16), ""), "grey") == (4, "probabilities")
    for name, complaint in (("fails", r"cannot be built \(KeyError: 'nothing here'\)"), ("text", "gives a str, not a torch.nn.Module")):
        with pytest.raises(NetworkError, match=complaint):
            find_network(f"own_networks:{name}").build(2)


def test_a_size_that_a_network_does_not_take_is_one_clear_line():
    blueprint = find_network("torchvision:vit_b_32")
    with pytest.raises(
        NetworkError, match=r"torchvision:vit_b_32 does not take images of 64 x 64 with 3 channel\(s\) \(Wrong image height!"
    ) as refused:
        try_network(blueprint.build(2), blueprint.preprocess((64, 64), ""), blueprint.name)
    assert "\n" not in str(refused.value)


def test_no_file_makes_us_import_a_module(own, weights):
    """Weights of a network of one's own name it; only who names it too has it imported."""
    named = find_network("own_networks:Net")
    (own / "imported").unlink()
    sys.modules.pop("own_networks")
    with pytest.raises(CheckpointError, match="name it with --network own_networks:Net"):
        find_stored(named.name, None, "file")
    with pytest.raises(CheckpointError, match="holds 'own_networks:Net', not 'torchvision:resnet18'"):
        find_stored(named.name, "torchvision:resnet18", "file")
    with pytest.raises(CheckpointError, match="which this release does not know"):
        find_stored("resnet19-cifar", None, "file")
    assert not (own / "imported").exists()
    assert find_stored(named.name, named.name, "file").name == named.name
    spec = load_weights(weights).spec
    save_weights(own / "theirs.safetensors", named.build(10).state_dict(), replace(spec, architecture="os:system"))
    with pytest.raises(CheckpointError, match="no file can make this program import"):
        load_weights(own / "theirs.safetensors")


def test_exports_are_named_after_the_network():
    names = ("resnet18-cifar", "torchvision:mobilenet_v2", "timm:resnet50.a1_in1k", "my.models:Net", "mine")
    assert [file_stem(name) for name in names] == ["resnet18", "mobilenet_v2", "resnet50-a1_in1k", "models-Net", "mine"]
