"""Every model of the catalogue trains: gradients reach every parameter, one batch is learnt by heart, micro-batches add up."""

import pytest
import torch

from contract.conftest import can, data, images_of, trainer
from limner.data.degrade import Degradation

WITHOUT_BATCH_STATISTICS_OR_NOISE = ["ae", "pixelcnn", "transformer"]
SAMPLES_A_GAUSSIAN_OF_PIXELS = ["pca"]
"""Linear: its samples lie around all the images, never near one, however well it knows them."""


def test_every_trainable_parameter_gets_a_gradient(name):
    t = trainer(name, batch=16)
    largest = dict.fromkeys((n for n, p in t.model.named_parameters() if p.requires_grad), 0.0)
    # Several steps: what stands behind a layer that starts at zero gets its first gradient in the second.
    for _ in range(4):
        batch = t.batch()
        for updates in t.updates(batch):
            for n, p in t.model.named_parameters():
                if p.grad is not None:
                    assert torch.isfinite(p.grad).all(), n
                    largest[n] = max(largest[n], float(p.grad.abs().max()))
            t.apply(updates)
        t.clock.step += 1
        t.clock.images += 16
    assert [n for n, g in largest.items() if g == 0] == []


def mean_error(name, model, images) -> tuple[str, float, float]:
    """What a model that has learnt `images` by heart must reach: (what, error, stated bound). Asks for capabilities only."""
    variance = float(images.var())
    if can(model, "sample") and name not in SAMPLES_A_GAUSSIAN_OF_PIXELS:
        # Independent draws of the same kind of image are 1 or more away: a model of the batch draws nearer to one of its images.
        samples = model.sample(64, generator=0)
        squares = torch.cdist(samples.flatten(1), images.flatten(1)).min(1).values.square() / images[0].numel()
        return "squared distance of samples to the nearest image over variance", float(squares.mean()) / variance, 0.5
    if can(model, "restore"):
        what, copy = "restoration", model.restore(Degradation.parse("noise=0.5")(images, range(len(images))))
    elif can(model, "translate"):
        what, copy = "translation into its own domain", model.translate(images, target="A")
    else:
        what, copy = "reconstruction", model.reconstruct(images)
    return f"{what} error over variance", float((copy - images).square().mean()) / variance, 0.05


def test_learns_one_batch_by_heart(name):
    few = data(name).subset(range(8))
    steps = 400
    t = trainer(name, few, batch=8, images=8 * steps, warmup=0, schedule="cosine", ema_halflife=80)
    with t.sampling() as model, torch.no_grad():
        images = images_of(name, 8, "train")
        what, before, bound = mean_error(name, model, images)
    for _ in range(steps):
        t.step()
    with t.sampling() as model, torch.no_grad():
        _, after, _ = mean_error(name, model, images)
    assert after < bound < before, f"{what}: {before:.3f} before, {after:.3f} after {steps} steps"


@pytest.mark.parametrize("name", WITHOUT_BATCH_STATISTICS_OR_NOISE)
def test_micro_batches_add_up_to_the_batch(name):
    whole, parts = (trainer(name, batch=16, micro_batches=m, precision="float32") for m in (1, 4))
    for t in (whole, parts):
        for _ in range(3):
            t.step()
    for (n, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), n


def test_a_moving_average_is_what_is_saved(name):
    t = trainer(name, batch=16)
    if not t.model.averaged:
        pytest.skip("keeps no average")
    for _ in range(3):
        t.step()
    raw = {n: p.detach().clone() for n, p in t.model.named_parameters()}
    with t.sampling() as model:
        inside = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved = [n for n in raw if not torch.equal(raw[n], inside[n])]
    assert moved
    assert all(n.startswith(tuple(t.model.averaged)) for n in moved)
    assert all(torch.equal(raw[n], p) for n, p in t.model.named_parameters()), (
        "the weights in training were not put back"
    )
