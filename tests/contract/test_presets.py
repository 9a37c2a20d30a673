"""Every preset fits the sizes of images that it is picked for, in grey and in colour: one training loss, with a gradient."""

from types import SimpleNamespace

import pytest
import torch

from limner import models
from limner.model import Clock
from limner.training.plan import defaults


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 16, 28, 32])
def test_the_preset_picked_for_a_size_trains_on_it(name, size, channels):
    data = SimpleNamespace(size=size, channels=channels, levels=256)
    _, settings, config = defaults(name, data)
    assert settings.images > settings.warmup
    model = models.model_class(name)(config)
    torch.manual_seed(0)
    image = torch.randint(0, 256, (2, channels, size, size)) / 127.5 - 1
    batch = {"image": image, "A": image, "B": image.flip(0), "label": torch.zeros(2, dtype=torch.long)}
    update = next(model.train_step(batch, Clock()), None)
    if update is None:
        assert not list(model.parameters()), "it has parameters, and no update for them"
        return
    update.loss.backward()
    assert torch.isfinite(update.loss)
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


def test_the_64px_preset_is_for_64_pixels(name):
    chosen, _, config = defaults(name, SimpleNamespace(size=64, channels=3, levels=256))
    assert chosen == "64px"
    model = models.model_class(name)(config)
    assert model.image_shape == (3, 64, 64)
