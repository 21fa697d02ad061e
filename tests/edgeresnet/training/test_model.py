import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeresnet.errors import CheckpointError
from edgeresnet.evaluation import synthetic_images
from edgeresnet.training.model import build_resnet18, build_wide_resnet18
from edgeresnet.training.weights import load_weights


def test_it_is_the_resnet18_of_the_cifar_literature():
    network = build_resnet18(10)
    assert sum(p.numel() for p in network.parameters()) == 11_173_962
    shapes = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    network.eval()(torch.zeros(1, 3, 32, 32))
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert build_resnet18(37).fc.out_features == 37


def test_the_wide_one_has_twice_the_channels_behind_the_stem():
    network = build_wide_resnet18(10)
    assert sum(p.numel() for p in network.parameters()) == 44_595_786
    stages = network.layer1, network.layer2, network.layer3, network.layer4
    assert [stage[-1].conv2.out_channels for stage in stages] == [128, 256, 512, 1024]
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert not network.layer4[1].bn2.weight.any()


def test_raw_pixels_are_normalized_inside(weights):
    network = load_weights(weights)
    pixels = synthetic_images(32, 4)
    mean, std = np.array(network.spec.mean), np.array(network.spec.std)
    normalized = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    expected = network.model.network(torch.from_numpy(normalized)).detach().numpy()
    np.testing.assert_allclose(network.logits(pixels), expected, atol=1e-4)


def test_stored_weights_are_in_half_precision_and_say_what_they_are(weights):
    assert {value.dtype for value in load_file(weights).values()} == {torch.float16}
    assert weights.stat().st_size < 22.5e6
    spec = load_weights(weights).spec
    assert (spec.architecture, len(spec.labels), len(spec.checkpoint_sha256)) == ("resnet18-cifar", 10, 64)


def test_other_files_are_no_weights(weights, exports, tmp_path):
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_weights(exports["int8"].path)
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:5_000_000])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_weights(tmp_path / "cut.safetensors")
    state = load_file(weights)
    save_file(state, tmp_path / "nameless.safetensors")
    with pytest.raises(CheckpointError, match="do not say what they are"):
        load_weights(tmp_path / "nameless.safetensors")
    del state["fc.bias"]
    save_file(state, tmp_path / "short.safetensors", metadata=load_weights(weights).spec.to_metadata())
    with pytest.raises(CheckpointError, match=r"do not fit.*fc.bias"):
        load_weights(tmp_path / "short.safetensors")
