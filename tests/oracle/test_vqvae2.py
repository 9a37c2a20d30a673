"""VQ-VAE-2: algorithm 1, what each map of codes depends on, and the sizes it takes."""

import pytest
import torch
from sklearn.datasets import load_digits

from limner.errors import UserError
from limner.model import Clock
from limner.models.autoencoders.vqvae2 import VQVAE2, Config


def digits(n):
    """(n, 1, 8, 8) in [-1, 1]."""
    return torch.from_numpy(load_digits().images[:n]).float()[:, None] / 8 - 1


def small(**changes):
    return VQVAE2(Config(**{"size": 8, "codebook": 32, "code_width": 8, "width": 16, "blocks": 1, **changes}))


@pytest.fixture(params=["ema", "gradient", "fsq"])
def model(request):
    """After a few steps."""
    torch.manual_seed(0)
    model = small(quantizer=request.param)
    optimizer = model.optimizers()["vqvae2"]
    for step in range(20):
        (update,) = model.train_step({"image": digits(32)}, Clock(step, 32 * step))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
    return model.eval()


def test_loss_is_that_of_both_codebooks(model):
    x = digits(16)
    (update,) = model.train_step({"image": x}, Clock())
    with torch.no_grad():
        features = model.encode_image(x)
        h_top = model.encode_top(features)
        top, bottom = model.tokenize(x)
        e_top, e_bottom = model.quantize_top.lookup(top), model.quantize_bottom.lookup(bottom)
        h_bottom = model.encode_bottom(torch.cat([features, model.decode_top(e_top)], 1))
        error = (model.decoder(torch.cat([model.widen_top(e_top), e_bottom], 1)) - x).square().mean()
        distance = (h_top - e_top).square().mean() + (h_bottom - e_bottom).square().mean()
        weight = {"ema": 0.25, "gradient": 1.25, "fsq": 0.0}[model.config.quantizer]
    torch.testing.assert_close(update.loss, error + weight * distance)
    assert {"top/perplexity", "top/codebook_size", "bottom/perplexity", "bottom/codebook_size"} <= set(update.log)


def test_the_bottom_is_encoded_knowing_the_top_and_the_decoder_sees_both(model):
    x = digits(6)
    with torch.no_grad():
        top, bottom = model.tokenize(x)
        assert (tuple(top.shape[1:]), tuple(bottom.shape[1:])) == model.code_shapes == ((2, 2), (4, 4))
        assert torch.equal(model.detokenize((top, bottom)), model.reconstruct(x))
        assert torch.equal(model.decode(model.encode(x)), model.reconstruct(x))
        image = model.detokenize((top, bottom))
        others = (top + 1) % model.codebooks[0], (bottom + 1) % model.codebooks[1]
        assert (model.detokenize((others[0], bottom)) - image).abs().max() > 1e-3
        assert (model.detokenize((top, others[1])) - image).abs().max() > 1e-3
        features = model.encode_image(x)
        e_top = model.quantize_top.lookup
        given = [model.encode_bottom(model.given_top(features, e_top(codes))) for codes in (top, others[0])]
        assert (given[0] - given[1]).abs().max() > 1e-4


def test_the_decoders_gradient_reaches_the_top_through_both_ways():
    """With beta = 0 the gradient at h_top is that at e_top: from the decoder, and from the bottom's encoder."""
    torch.manual_seed(0)
    model, x = small(beta=0), digits(16)
    next(model.train_step({"image": x}, Clock()))
    model.eval()
    seen = {}
    model.encode_top.register_full_backward_hook(lambda m, inputs, outputs: seen.update(h=outputs[0]))
    model.widen_top.register_full_backward_hook(lambda m, inputs, outputs: seen.update(decoder=inputs[0]))
    model.decode_top[0].register_full_backward_hook(lambda m, inputs, outputs: seen.update(bottom=inputs[0]))
    (update,) = model.train_step({"image": x}, Clock())
    update.loss.backward()
    assert min(seen["decoder"].abs().max(), seen["bottom"].abs().max()) > 0
    torch.testing.assert_close(seen["h"], seen["decoder"] + seen["bottom"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "factor", "works"), [(30, 2, "28 or 32"), (28, 4, "24 or 32"), (6, 2, "4 or 8"), (28, 6, "power of 2")]
)
def test_sizes_that_cannot_be_divided_are_refused(size, factor, works):
    with pytest.raises(UserError, match=works):
        VQVAE2(Config(size=size, factor=factor))
    assert VQVAE2(Config(size=28)).code_shapes == ((7, 7), (14, 14))
