"""The face swap: its losses written out, its warp, and swaps whose answer is known (discs and rings at random places)."""

import math
from dataclasses import replace

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
    model = FaceSwap(Config(size=8, width=4, latent=3, warp=0.0, judge=0.3))
    batch = {d: torch.rand(5, 1, 8, 8) * 2 - 1 for d in "AB"}
    code = {d: model.encoder(x) for d, x in batch.items()}
    own = sum(F.mse_loss(model.decoders[d](code[d]), batch[d]) for d in "AB")
    p = {d: torch.sigmoid(model.code_judge(code[d])) for d in "AB"}  # that a code is A's
    judge, swap = model.train_step(batch, Clock())
    assert (judge.optimizer, swap.optimizer) == ("judge", "swap")
    torch.testing.assert_close(judge.loss, -p["A"].log().mean() - (1 - p["B"]).log().mean())
    deceived = -(1 - p["A"]).log().mean() - p["B"].log().mean()
    torch.testing.assert_close(swap.loss, own + 0.3 * deceived)


def test_a_judge_moves_no_encoder_and_no_decoder_reads_the_other_domain():
    torch.manual_seed(0)
    model = FaceSwap(Config(size=8, width=4, latent=3, warp=0.0, judge=0.3))
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


MAP = Config(size=8, channels=2, latent=3, halvings=2, width=4, critic_width=4, warp=0.0)


def pair_of_noise():
    return {d: torch.rand(3, 2, 8, 8) * 2 - 1 for d in "AB"}


def test_the_losses_of_the_critics_and_the_cycle_are_those_of_the_formulas():
    torch.manual_seed(0)
    model, batch = FaceSwap(replace(MAP, critic=0.3, r1=2.0, cycle=0.7)), pair_of_noise()
    code = {d: model.encoder(x) for d, x in batch.items()}
    swap = {"A": model.decoders["A"](code["B"]), "B": model.decoders["B"](code["A"])}
    own = sum(F.mse_loss(model.decoders[d](code[d]), batch[d]) for d in "AB")
    cycle = F.mse_loss(model.decoders["A"](model.encoder(swap["B"])), batch["A"])
    cycle = cycle + F.mse_loss(model.decoders["B"](model.encoder(swap["A"])), batch["B"])
    game = fooling = torch.zeros(())
    for d in "AB":
        real = batch[d].clone().requires_grad_()
        on_real, on_swap = model.critics[d](real), model.critics[d](swap[d])
        each = [torch.autograd.grad(on_real[i].mean(), real, retain_graph=True)[0][i] for i in range(3)]
        penalty = torch.stack([g.square().sum() for g in each]).mean() / 2
        game = game + F.relu(1 - on_real).mean() + F.relu(1 + on_swap).mean() + 2.0 * penalty
        fooling = fooling - on_swap.mean()
    critics, swapping = model.train_step(batch, Clock())
    assert (critics.optimizer, swapping.optimizer) == ("critics", "swap")
    torch.testing.assert_close(critics.loss, game)
    torch.testing.assert_close(swapping.loss, own + 0.3 * fooling + 0.7 * cycle)
    critics.loss.backward()
    assert all(p.grad is None for p in [*model.encoder.parameters(), *model.decoders.parameters()])


def test_together_both_decoders_decode_both_domains_and_stay_one():
    torch.manual_seed(0)
    model = FaceSwap(replace(MAP, critic=0.3, cycle=0.7, together=6))
    optimizer = model.optimizers()["swap"]
    for images in (0, 3):
        batch = pair_of_noise()
        x = torch.cat([batch["A"], batch["B"]])
        (update,) = model.train_step(batch, Clock(images=images))  # critics and cycle wait
        torch.testing.assert_close(update.loss, sum(F.mse_loss(model.decoders[d](model.encoder(x)), x) for d in "AB"))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    torch.testing.assert_close(model.translate(x, target="A"), model.translate(x, target="B"))
    assert [u.optimizer for u in model.train_step(pair_of_noise(), Clock(images=6))] == ["critics", "swap"]


@pytest.mark.parametrize(("size", "halvings", "side"), [(8, 2, 2), (12, 2, 3), (12, 1, 6)])
def test_a_map_code_has_the_image_s_side_halved(size, halvings, side):
    model = FaceSwap(replace(MAP, size=size, halvings=halvings))
    x = torch.rand(2, 2, size, size)
    assert model.encode(x).shape == (2, 3, side, side)
    assert model.translate(x, target="B").shape == x.shape


def test_an_image_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(UserError, match="12 pixels cannot be halved 3 times"):
        FaceSwap(replace(MAP, size=12, halvings=3))


def test_features_keep_their_size():
    """With PyTorch's own weights codes had a deviation of 0.05 and images one of 0.02, and learning was slow."""
    torch.manual_seed(0)
    model = FaceSwap(replace(MAP, size=32, latent=16, width=32))
    x = torch.randn(4, 2, 32, 32)
    assert 0.3 < float(model.encode(x).detach().std()) < 3
    assert 0.3 < float(model.draw(torch.randn(4, 16, 8, 8), "A").detach().std()) < 3


def test_critics_translate_colours_that_codes_do_not_mix_up():
    """Red, green and blue discs become rings at their places and of their colours, and rings discs."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        """A disc (A) and a ring (B) at each of n places, of colours 0, 1 or 2: two of (n, 3, 12, 12), and the colours."""
        centre, colour = centres(n, generator), torch.randint(3, (n,), generator=generator)
        light = F.one_hot(colour, 3)[:, :, None, None]
        return *((picture(domain, centre) + 1) * light - 1 for domain in "AB"), colour

    model = FaceSwap(
        Config(size=SIDE, channels=3, halvings=1, latent=8, width=8, warp=0.0, critic=0.1, critic_width=16, cycle=1.0, together=1000)
    )  # fmt: skip
    optimizers, steps = model.optimizers(), 240
    for step in range(steps):
        for name, loss, _ in model.train_step({"A": draw(16)[0], "B": draw(16)[1]}, Clock(step, 16 * step)):
            optimizer = optimizers[name]
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 2 - 2 * step / steps)
            optimizer.zero_grad()
            loss.backward(inputs=parameters)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
    disc, ring, colour = draw(300)
    for x, truth, target in ((disc, ring, "B"), (ring, disc, "A")):
        swapped = model.translate(x, target=target)
        assert ((swapped + 1).sum((2, 3)).argmax(1) == colour).float().mean() > 0.95
        way = ((swapped - x) * (truth - x)).sum() / (truth - x).square().sum()
        assert 0.6 < float(way) < 1.2, "not the way from the source to its true translation"


def test_a_deceived_judge_cannot_tell_the_domains():
    """The adversarial part alone: the encoder brings two domains that differ by their brightness to one distribution of codes."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)

    def right(judge):
        model = FaceSwap(Config(size=8, width=4, latent=2, warp=0.0, judge=judge, lr=3e-3))
        optimizers, said = model.optimizers(), []
        for step in range(250):
            x = torch.rand(32, 1, 8, 8, generator=generator)
            for name, loss, log in model.train_step({"A": x, "B": x.flip(0) - 1}, Clock(step)):
                said += [float(log["judge right"])] if name == "swap" else []
                optimizer = optimizers[name]
                optimizer.zero_grad()
                loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
                optimizer.step()
        return sum(said[-50:]) / 50

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
