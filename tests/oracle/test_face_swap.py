"""The face swap: its losses written out, its warp, and a swap whose answer is known (discs and rings at random places)."""

import math

import pytest
import torch
from torch.nn import functional as F

from limner.errors import UserError
from limner.model import Clock
from limner.models.autoencoders.face_swap import Config, FaceSwap, warped

SIDE = 12


def picture(domain, centre):
    """A disc (A) or a ring (B), bright on dark, around each centre (n, 2) in pixels: (n, 1, 12, 12)."""
    y, x = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
    squared = (x - centre[:, 0, None, None]) ** 2 + (y - centre[:, 1, None, None]) ** 2
    disc, hole = torch.sigmoid(7 - squared), torch.sigmoid(2 - squared)
    return (2 * (disc if domain == "A" else disc - hole) - 1)[:, None]


def centres(n, generator):
    return 3 + 6 * torch.rand(n, 2, generator=generator)


@pytest.fixture(scope="module")
def trained():
    """A plain face swap after 400 steps (some seconds) on discs and rings at places of their own."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = FaceSwap(Config(size=SIDE, width=8, latent=8))
    optimizer = model.optimizers()["swap"]
    for step in range(400):
        batch = {domain: picture(domain, centres(32, generator)) for domain in "AB"}
        (update,) = model.train_step(batch, Clock(step, 32 * step))
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1, (400 - step) / 200)
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("source", "target"), [("A", "B"), ("B", "A")])
def test_a_swap_changes_the_style_and_keeps_the_place(trained, source, target):
    centre = centres(300, torch.Generator().manual_seed(1))
    x, truth = picture(source, centre), picture(target, centre)
    swapped = trained.translate(x, target=target)
    variance = truth.var()
    error = (swapped - truth).square().mean() / variance
    own = (trained.translate(truth, target=target) - truth).square().mean() / variance
    assert error < own + 0.1, "worse than the target's own images"
    assert error < 0.6 * (x - truth).square().mean() / variance, "hardly better than doing nothing"
    weight = (swapped + 1).clamp(min=0).flatten(1)
    grid = torch.stack(torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="xy")).flatten(1)
    found = weight @ grid.T / weight.sum(1, keepdim=True)  # (n, 2) the centre of what is bright
    assert ((found - centre).norm(dim=1) < 1).float().mean() > 0.9


@pytest.mark.parametrize("domain", ["A", "B"])
def test_translating_to_its_own_domain_reconstructs(trained, domain):
    x = picture(domain, centres(200, torch.Generator().manual_seed(2)))
    assert (trained.translate(x, target=domain) - x).square().mean() / x.var() < 0.25


def test_the_loss_is_that_of_the_formulas():
    torch.manual_seed(0)
    model = FaceSwap(Config(size=8, width=4, latent=3, warp=0.0, adversary=0.3))
    batch = {d: torch.rand(5, 1, 8, 8) * 2 - 1 for d in "AB"}
    code = {d: model.encoder(x) for d, x in batch.items()}
    own = sum(F.mse_loss(model.decoders[d](code[d]), batch[d]) for d in "AB")
    p = {d: torch.sigmoid(model.judge(code[d])) for d in "AB"}  # that a code is A's
    judge, swap = model.train_step(batch, Clock())
    assert (judge.optimizer, swap.optimizer) == ("judge", "swap")
    torch.testing.assert_close(judge.loss, -p["A"].log().mean() - (1 - p["B"]).log().mean())
    deceived = -(1 - p["A"]).log().mean() - p["B"].log().mean()
    torch.testing.assert_close(swap.loss, own + 0.3 * deceived)


def test_a_judge_moves_no_encoder_and_no_decoder_reads_the_other_domain():
    torch.manual_seed(0)
    model = FaceSwap(Config(size=8, width=4, latent=3, warp=0.0, adversary=0.3))
    batch = {d: torch.rand(5, 1, 8, 8) * 2 - 1 for d in "AB"}
    next(model.train_step(batch, Clock())).loss.backward()
    assert all(p.grad is None for p in [*model.encoder.parameters(), *model.decoders.parameters()])

    def gradients_of_a(other):
        model.zero_grad()
        *_, swap = model.train_step({"A": batch["A"], "B": other}, Clock())
        swap.loss.backward()
        return [p.grad.clone() for p in model.decoders["A"].parameters()]

    pairs = zip(gradients_of_a(batch["B"]), gradients_of_a(-batch["B"]), strict=True)
    assert all(torch.allclose(one, two, atol=1e-7) for one, two in pairs)


def test_a_deceived_judge_cannot_tell_the_domains():
    """The adversarial part alone: the encoder brings two domains that differ by their brightness to one distribution of codes."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def right(adversary):
        model = FaceSwap(Config(size=8, width=4, latent=2, warp=0.0, adversary=adversary, lr=3e-3))
        optimizers = model.optimizers()
        for step in range(250):
            x = torch.rand(32, 1, 8, 8, generator=generator)
            for name, loss, log in model.train_step({"A": x, "B": x.flip(0) - 1}, Clock(step)):
                said = log
                optimizer = optimizers[name]
                optimizer.zero_grad()
                loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
                optimizer.step()
        return float(said["judge right"])

    assert right(1e-6) > 0.9
    assert right(1.0) < 0.8


def test_the_warp_moves_points_by_its_strength_and_nothing_as_a_whole():
    torch.manual_seed(0)
    size, strength = 64, 0.03
    u = (torch.arange(size) + 0.5) / size  # shares of the side
    y, x = torch.meshgrid(u, u, indexing="ij")
    place = torch.stack([x, y]).expand(200, 2, size, size)
    moved = warped(place, strength) - place  # of a picture of coordinates: where each pixel was taken from
    inside = moved[:, :, 8:-8, 8:-8]  # where no border was reached
    assert float(moved[:, :, size // 2, size // 2].std()) == pytest.approx(strength, rel=0.2)
    assert float(inside.abs().mean()) > strength / 4
    basis = torch.stack([torch.ones_like(x), x - 0.5, y - 0.5])[:, 8:-8, 8:-8].flatten(1)  # (3, pixels)
    affine = inside.flatten(2) @ torch.linalg.pinv(basis)  # (200, 2, 3): shift, and two rates of stretch or turn
    assert float(affine[..., 0].std()) < strength / 4
    smooth = (moved[:, :, 1:] - moved[:, :, :-1]).abs().max() * size
    assert float(smooth) < 40 * strength  # from one pixel to the next no jump
    assert math.isfinite(float(moved.abs().max()))


def test_without_strength_nothing_is_warped():
    x = torch.rand(2, 3, 16, 16)
    assert warped(x, 0.0) is x
    assert (warped(x, 1e-7) - x).abs().max() < 1e-4


def test_the_input_is_warped_and_the_target_is_not(monkeypatch):
    from limner.models.autoencoders import face_swap

    model = FaceSwap(Config(size=8, width=4, latent=3, warp=0.1))
    batch = {d: torch.rand(3, 1, 8, 8) for d in "AB"}
    monkeypatch.setattr(face_swap, "warped", lambda x, strength: torch.zeros_like(x))
    (update,) = model.train_step(batch, Clock())
    blank = model.encoder(torch.zeros(3, 1, 8, 8))
    torch.testing.assert_close(update.loss, sum(F.mse_loss(model.decoders[d](blank), batch[d]) for d in "AB"))


def test_an_unknown_domain_is_refused():
    with pytest.raises(UserError, match=r"no domain 'C'.*A, B"):
        FaceSwap(Config(size=8)).translate(torch.zeros(1, 1, 8, 8), target="C")
