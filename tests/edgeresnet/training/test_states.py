from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from edgeresnet.errors import CheckpointError
from edgeresnet.preprocessing import Changes
from edgeresnet.training.networks import find_network
from edgeresnet.training.states import count_classes, find_head, load_state, read_state
from edgeresnet.training.weights import load_weights, round_to_half, save_weights

NAME = "timm:test_resnet"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return find_network(NAME).build(12)


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"checkpoint": 1, "model": {"model_state_dict": {f"module.{key}": value for key, value in state.items()}}},
        lambda state: {"state_dict": {f"_orig_mod.model.{key}": value for key, value in state.items()}},
    ],
)
def test_a_state_is_found_wherever_training_scripts_put_it(network, tmp_path, nest):
    torch.save(nest(network.state_dict()), tmp_path / "best.pt")
    state = read_state(tmp_path / "best.pt")
    other = find_network(NAME).build(12)
    load_state(other, state, NAME)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in other.state_dict().items())


def test_weights_of_anybody_become_a_network(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not say what they are; fix: name their network"):
        load_weights(tmp_path / "model.safetensors")
    trained = load_weights(tmp_path / "model.safetensors", NAME, changes=Changes(size=(48, 32), mean=(0.5,), std=(0.25,)))
    assert trained.spec.labels == tuple(f"class {number}" for number in range(12))
    assert (trained.spec.architecture, trained.spec.output, trained.spec.mean) == (NAME, "logits", (0.5, 0.5, 0.5))
    assert (trained.spec.input.height, trained.spec.input.width) == (48, 32)
    pixels = torch.randint(0, 256, (2, 48, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.eval()((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    torch.testing.assert_close(torch.from_numpy(trained.logits(pixels.numpy())), expected, atol=1e-5, rtol=1e-5)
    labels = tuple(f"kind {number}" for number in range(12))
    assert load_weights(tmp_path / "model.safetensors", NAME, labels=labels).spec.labels == labels


def test_a_file_of_ours_remembers_its_network(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "any.pt")
    trained = load_weights(tmp_path / "any.pt", NAME)
    save_weights(tmp_path / "ours.safetensors", trained.model.network.state_dict(), trained.spec)
    again = load_weights(tmp_path / "ours.safetensors")
    assert replace(again.spec, checkpoint_sha256="") == replace(trained.spec, checkpoint_sha256="")
    with pytest.raises(CheckpointError, match="holds 'timm:test_resnet', not 'torchvision:resnet18'"):
        load_weights(tmp_path / "ours.safetensors", "torchvision:resnet18")


def test_what_does_not_fit_is_counted_and_named(network, tmp_path):
    state = dict(network.state_dict())
    del state["conv1.0.weight"]
    state["extra.weight"] = state.pop("fc.bias")
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"do not fit a .*: 2 missing \(conv1.0.weight, fc.bias\); 1 unexpected \(extra.weight\)$"):
        load_weights(tmp_path / "odd.safetensors", NAME)
    torch.save(network.state_dict(), tmp_path / "twelve.pt")
    with pytest.raises(CheckpointError, match=r"2 of another shape .*; the file is for 12 classes and the network was built for 3"):
        load_weights(tmp_path / "twelve.pt", NAME, labels=("a", "b", "c"))
    with pytest.raises(CheckpointError, match="do not fit a torchvision:squeezenet1_1"):
        load_weights(tmp_path / "twelve.pt", "torchvision:squeezenet1_1")


def test_the_head_is_what_depends_on_the_number_of_classes(network, tmp_path):
    blueprint = find_network(NAME)
    assert find_head(blueprint, network, 12) == {"fc.weight", "fc.bias"}
    torch.save(network.state_dict(), tmp_path / "twelve.pt")
    assert count_classes(blueprint, read_state(tmp_path / "twelve.pt")) == 12
    squeezenet = find_network("torchvision:squeezenet1_1")
    assert find_head(squeezenet, squeezenet.build(4), 4) == {"classifier.1.weight", "classifier.1.bias"}


def test_files_that_could_run_code_or_are_broken_are_refused(network, tmp_path):
    torch.save(network, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"holds Python objects .* could run any code.*state_dict\(\)"):
        read_state(tmp_path / "whole.pt")
    torch.save({"epoch": 3, "lr": [0.1]}, tmp_path / "settings.pt")
    with pytest.raises(CheckpointError, match="holds a dictionary of epoch, lr, not a state dictionary"):
        read_state(tmp_path / "settings.pt")
    torch.save(network.state_dict(), tmp_path / "good.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut.pt: the file is broken"):
        read_state(tmp_path / "cut.pt")
    (tmp_path / "text.pt").write_text("weights")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_state(tmp_path / "text.pt")


def test_numbers_beyond_half_precision_keep_their_range():
    rounded = round_to_half({"small": torch.tensor([1.0, 3e4]), "large": torch.tensor([1.0, 7e4])})
    assert (rounded["small"].dtype, rounded["large"].dtype) == (torch.float16, torch.float32)
    assert rounded["large"][1] == 7e4
