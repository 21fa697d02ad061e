import pytest
import torch
from torch.nn import functional

from edgeresnet.training.augmentation import normalization, normalize
from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.state import TrainingState
from edgeresnet.training.step import Batch, Step

CONFIG = TrainingConfig(batch_size=8, image_size=8, crop_padding=2, label_smoothing=0.1, ema_decay=0.9)


@pytest.fixture
def state():
    return TrainingState.new(CONFIG, ("a", "b", "c"), torch.device("cpu"))


def draw_batch(share=1.0):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 8, 8, 3), generator=generator, dtype=torch.uint8)
    own, others = torch.randint(0, 3, (2, 8), generator=generator)
    return Batch(images, own, others, share)


def step_of(state):
    return Step(CONFIG, state, state.network.train(), normalization(state.preprocessing, torch.device("cpu")), as_graph=False)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_loss_counts_each_class_by_its_share(state, share):
    batch = draw_batch(share)
    with torch.no_grad():
        logits = state.network.train()(normalize(batch.images, *normalization(state.preprocessing, torch.device("cpu")), 8))
    loss, right = step_of(state).take(batch, 8, 1.0)
    own, others = (float(functional.cross_entropy(logits, classes, label_smoothing=0.1)) for classes in (batch.own, batch.others))
    assert float(loss) == pytest.approx(8 * (share * own + (1 - share) * others), rel=1e-5)
    assert int(right) == int((logits.argmax(1) == batch.own).sum())


def test_a_step_learns_and_moves_the_average(state):
    step, batch = step_of(state), draw_batch()
    before = state.average.fc.weight.clone()
    losses = [float(step.take(batch, 8, 0.2)[0]) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]
    assert state.step == 12
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * CONFIG.lr)
    assert not torch.equal(state.average.fc.weight, before)
