"""VQGAN: codes and back, the gradient through them, and the regulariser of its paper."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from limner.model import Clock
from limner.models.autoencoders.vqgan import VQGAN, Config


def digits(first, last):
    return torch.from_numpy(load_digits().images[first:last]).float()[:, None] / 8 - 1


def small(**values):
    given = {"size": 8, "width": 16, "multipliers": (1, 2), "codebook": 32, "code_width": 8, "discriminator_width": 8}
    return Config(**{**given, **values})


@pytest.mark.parametrize("quantizer", ["ema", "gradient", "fsq"])
def test_codes_are_the_whole_image(quantizer):
    torch.manual_seed(0)
    model = VQGAN(small(quantizer=quantizer, fsq_levels=(5, 4, 3)))
    x = digits(0, 40)
    for _ in model.train_step({"image": x}, Clock()):
        pass  # the codebook begins on this batch
    model.eval()
    codes = model.tokenize(x)
    size = 60 if quantizer == "fsq" else 32
    assert model.codebooks == (size,)
    assert tuple(codes[0].shape) == (40, *model.code_shapes[0]) == (40, 4, 4)
    assert codes[0].dtype == torch.int64
    assert 0 <= int(codes[0].min()) < int(codes[0].max()) < size
    assert torch.equal(model.detokenize(codes), model.reconstruct(x))
    assert torch.equal(model.decode(model.encode(x)), model.reconstruct(x))
    # What the quantiser gives in training is what the codes stand for.
    torch.testing.assert_close(model.quantizer(model.encoder(x)).code, model.encode(x))


def test_loss_is_that_of_equations_4_6_and_7():
    torch.manual_seed(0)
    model, x = VQGAN(small(quantizer="gradient", beta=0.25, adversarial=0.8, restart=0)), digits(0, 16)
    for _ in model.train_step({"image": x}, Clock()):
        pass
    codebook = model.quantizer.codebook
    z = model.encoder(x)  # (B, D, h, w)
    index = torch.cdist(z.movedim(1, -1).reshape(-1, 8), codebook).argmin(1)
    z_q = codebook[index].view(16, 4, 4, 8).movedim(-1, 1)
    y = model.decoder(z + (z_q - z).detach())
    error = (x - y).abs().mean()
    regularizer = F.mse_loss(z_q, z.detach()) + 0.25 * F.mse_loss(z, z_q.detach())
    fooling = -model.discriminator(y).mean()
    wanted, given = (
        torch.autograd.grad(loss, model.decoder[-1].weight, retain_graph=True)[0].norm() for loss in (error, fooling)
    )
    loss = error + regularizer + 0.8 * (wanted / given).detach() * fooling
    update = next(model.train_step({"image": x}, Clock()))
    assert update.loss.item() == pytest.approx(loss.item(), rel=1e-3)
    makers = [*model.encoder.parameters(), codebook, *model.decoder.parameters()]
    for mine, theirs in zip(torch.autograd.grad(update.loss, makers), torch.autograd.grad(loss, makers), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.norm()) + 1e-8)


def test_learns_codes_that_bring_digits_back():
    torch.manual_seed(0)
    x, held_out = digits(0, 1300), digits(1300, 1797)
    model = VQGAN(small(width=8, lr=4e-3, adversarial_start=120 * 32))
    optimizers = model.optimizers()
    for step in range(150):
        batch = {"image": x[torch.randint(len(x), (32,))]}
        for update in model.train_step(batch, Clock(step, step * 32)):
            optimizer = optimizers[update.optimizer]
            optimizer.zero_grad()
            update.loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step()
    model.eval()
    with torch.no_grad():
        (codes,) = model.tokenize(held_out)
        error = (model.detokenize((codes,)) - held_out).square().mean() / held_out.var()
    used = torch.bincount(codes.flatten(), minlength=32) / codes.numel()
    perplexity = float(torch.exp(-torch.special.xlogy(used, used).sum()))
    assert error < 0.35
    assert perplexity > 16
