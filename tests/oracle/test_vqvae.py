"""The VQ-VAE: its loss against equation 3 written out, its gradients, codes there and back, and the sizes it takes."""

import pytest
import torch
from sklearn.datasets import load_digits

from limner.errors import UserError
from limner.model import Clock
from limner.models.autoencoders.vqvae import VQVAE, Config, halvings_of

KINDS = ["ema", "gradient", "fsq"]


def digits(n):
    """(n, 1, 8, 8) in [-1, 1]."""
    return torch.from_numpy(load_digits().images[:n]).float()[:, None] / 8 - 1


def small(**changes):
    settings = {"size": 8, "factor": 2, "codebook": 32, "code_width": 8, "width": 16, "blocks": 1}
    return VQVAE(Config(**{**settings, **changes}))


def with_large_vectors(model):
    """Initial weights of the encoder that reach more than the middle of FSQ's codes."""
    torch.nn.init.normal_(model.encoder[-1].weight)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_equation_3(kind):
    torch.manual_seed(0)
    model, x = with_large_vectors(small(quantizer=kind, beta=0.4)), digits(16)
    next(model.train_step({"image": x}, Clock()))  # the codebook begins
    model.eval()
    (update,) = model.train_step({"image": x}, Clock())
    with torch.no_grad():
        z, values = model.encoder(x), model.encode(x)
        error = (model.decoder(values) - x).square().mean()
        distance = (z - values).square().mean()
        weight = {"ema": 0.4, "gradient": 1.4, "fsq": 0.0}[kind]
        torch.testing.assert_close(update.loss, error + weight * distance)
        assert update.log["reconstruction"] == error
        assert 1 < update.log["perplexity"] <= update.log["codebook_size"] == model.codebooks[0]


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_the_encoder_learns_by_the_decoders_input_gradient(kind):
    """Equation 3 without the commitment: the encoder's last layer gets exactly what the decoder's input gets."""
    torch.manual_seed(0)
    model, x = small(quantizer=kind, beta=0), digits(16)
    next(model.train_step({"image": x}, Clock()))
    model.eval()
    seen = {}
    model.encoder[-1].register_full_backward_hook(lambda module, inputs, outputs: seen.update(encoder=outputs[0]))
    model.decoder[0].register_full_backward_hook(lambda module, inputs, outputs: seen.update(decoder=inputs[0]))
    (update,) = model.train_step({"image": x}, Clock())
    update.loss.backward()
    assert seen["decoder"].abs().max() > 0
    assert torch.equal(seen["encoder"], seen["decoder"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "channels", "factor"), [(8, 1, 2), (28, 1, 4), (32, 3, 8)])
def test_codes_are_all_that_the_decoder_sees(kind, size, channels, factor):
    torch.manual_seed(0)
    model = with_large_vectors(small(quantizer=kind, size=size, channels=channels, factor=factor))
    x = torch.rand(5, channels, size, size) * 2 - 1
    next(model.train_step({"image": x}, Clock()))
    with torch.no_grad():
        model.train()  # looking changes nothing, whatever the mode
        before = [value.clone() for value in model.state_dict().values()]
        (codes,) = model.tokenize(x)
        assert codes.dtype == torch.int64
        assert codes.shape == (5, *model.code_shapes[0]) == (5, size // factor, size // factor)
        assert 0 <= codes.min() < codes.max() < model.codebooks[0]
        assert torch.equal(model.detokenize((codes,)), model.reconstruct(x))
        assert torch.equal(model.decode(model.encode(x)), model.reconstruct(x))
        other = model.detokenize((codes.flip(0),))
        torch.testing.assert_close(other.flip(0), model.detokenize((codes,)), rtol=0, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("size", "factor", "works"), [(30, 4, "28 or 32"), (28, 8, "24 or 32"), (2, 4, "size 4"), (28, 3, "2, 4 or 8")]
)
def test_sizes_that_cannot_be_halved_are_refused(size, factor, works):
    with pytest.raises(UserError, match=works):
        VQVAE(Config(size=size, factor=factor))
    assert halvings_of(28, 4) == 2


@pytest.mark.parametrize("kind", ["ema", pytest.param("gradient", marks=pytest.mark.slow), "fsq"])
def test_a_short_training_uses_the_codebook_and_beats_pca(kind):
    """16 codes of 32 (80 bits) against PCA with the 10 numbers that 8 bits each would leave it, on digits never seen."""
    torch.manual_seed(0)
    train, test = digits(1797)[:1400], digits(1797)[1400:]
    model = small(quantizer=kind, fsq_levels=(8, 4), width=32, lr=2e-3)
    optimizer = model.optimizers()["vqvae"]
    for step in range(250):
        (update,) = model.train_step({"image": train[torch.randint(len(train), (64,))]}, Clock(step, step * 64))
        optimizer.zero_grad()
        update.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 25)
        optimizer.step()
    mean = train.flatten(1).mean(0)
    axes = torch.linalg.svd(train.flatten(1) - mean, full_matrices=False)[2][:10]
    flat = test.flatten(1) - mean
    pca = (flat - flat @ axes.T @ axes).square().mean()
    model.eval()
    with torch.no_grad():
        error = (model.reconstruct(test) - test).square().mean()
        used = torch.bincount(model.tokenize(test)[0].flatten(), minlength=32).float()
    p = used / used.sum()
    perplexity = torch.exp(-torch.special.xlogy(p, p).sum())
    assert error < 0.9 * pca, (error, pca)
    assert perplexity > 16
