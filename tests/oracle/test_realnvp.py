"""RealNVP against exact truths: its inverse, the Jacobian by autograd, densities that integrate to one, closed forms, a peer."""

import math

import pytest
import torch
from torch import nn

from limner.errors import UserError
from limner.losses.dequantization import bits_per_dim, centre_of, dequantise, level_of, quantise, uniform_dequantise
from limner.model import Clock
from limner.models.flows.realnvp import Config, RealNVP
from limner.nn.actnorm import ActNorm
from limner.nn.bijection import Chain, Logit, MultiScale, standard_normal_log_density
from limner.nn.coupling import Affine, Checkerboard, Coupling, Halves, ResNet
from limner.nn.squeeze import Squeeze, squeeze, unsqueeze


def stirred(module, scale=0.1, seed=0):
    """The module with random weights, so that no layer is the identity it starts as; activation norms count as set."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p += scale * torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.dtype)
        for m in module.modules():
            if isinstance(m, ActNorm):
                m.initialised.fill_(True)
    return module


def images(n, channels=1, size=8, levels=17, seed=0):
    k = torch.randint(levels, (n, channels, size, size), generator=torch.Generator().manual_seed(seed))
    return 2 * k.float() / (levels - 1) - 1


def autograd_log_det(f, x):
    """log |det| of f at x (1, ...), by the full Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda v: f(v)[0].flatten(), x).view(x.numel(), x.numel())
    return torch.linalg.slogdet(jacobian)[1]


def train(flow, draw, steps, lr):
    """Maximum likelihood of draw(step) under the flow with a standard normal prior."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for i in range(steps):
        z, log_det = flow(draw(i))
        loss = -(standard_normal_log_density(z) + log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return flow.eval()


def planar(width=48, layers=6):
    """A flow on vectors (B, 2) from the image flow's layers, with a perceptron as its network."""

    def network():
        net = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2))
        nn.init.zeros_(net[-1].weight)
        return net

    chain = []
    for i in range(layers):
        chain += [ActNorm(2), Coupling(Halves((2,), swap=i % 2 == 1), Affine(), network())]
    return Chain(chain)


# Layers

LAYERS = {
    "logit": lambda: (Logit(0.05), (2, 4, 6)),
    "squeeze": lambda: (Squeeze(), (2, 4, 6)),
    "actnorm": lambda: (ActNorm(3), (3, 4, 5)),
    "checkerboard": lambda: (coupling(Checkerboard, (2, 4, 6)), (2, 4, 6)),
    "checkerboard, swapped": lambda: (coupling(Checkerboard, (2, 4, 6), swap=True), (2, 4, 6)),
    "checkerboard, odd size": lambda: (coupling(Checkerboard, (2, 5, 3)), (2, 5, 3)),
    "checkerboard, odd, swapped": lambda: (coupling(Checkerboard, (1, 7, 7), swap=True), (1, 7, 7)),
    "channels": lambda: (coupling(Halves, (4, 3, 5)), (4, 3, 5)),
    "channels, odd, swapped": lambda: (coupling(Halves, (3, 3, 4), swap=True), (3, 3, 4)),
    "multi-scale": lambda: (
        MultiScale(
            [Chain([Squeeze(), coupling(Halves, (8, 4, 2))]), coupling(Checkerboard, (4, 4, 2))], [(8, 4, 2), (4, 4, 2)]
        ),
        (2, 8, 4),
    ),
}


def coupling(kind, shape, swap=False):
    partition = kind(shape, swap=swap)
    return Coupling(partition, Affine(), ResNet(partition.given, 2 * partition.changed, 8, 1))


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_of_each_layer_is_slogdet_of_its_jacobian_and_the_inverse_inverts(name):
    layer, shape = LAYERS[name]()
    layer = stirred(layer, 0.3).double()
    x = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y, log_det = layer(x)
    assert log_det.shape == (3,)
    if name != "squeeze":
        assert log_det.abs().min() > 1e-3
        assert (y.flatten() - x.flatten()).abs().max() > 1e-2
    for i in range(3):
        assert abs(autograd_log_det(layer, x[i : i + 1]) - log_det[i]) < 1e-10
    assert (layer.inverse(y) - x).abs().max() < 1e-12


def test_checkerboard_is_the_papers_mask():
    x = torch.arange(36.0).view(1, 1, 6, 6)
    i, j = torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij")
    even = (i + j) % 2 == 0
    a, b = Checkerboard((1, 6, 6)).split(x)
    assert set(a.flatten().tolist()) == set(x[0, 0][even].tolist())
    assert set(b.flatten().tolist()) == set(x[0, 0][~even].tolist())
    a_swapped, b_swapped = Checkerboard((1, 6, 6), swap=True).split(x)
    assert torch.equal(a_swapped, b)
    assert torch.equal(b_swapped, a)
    layer = stirred(coupling(Checkerboard, (1, 7, 7)))
    x = torch.randn(2, 1, 7, 7)
    changed = (layer(x)[0] - x).abs() > 1e-6
    i, j = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    assert torch.equal(changed.all(0)[0], (i + j) % 2 == 1)
    assert torch.equal(changed.any(0)[0], (i + j) % 2 == 1)


def test_squeeze_makes_channels_of_2x2_blocks():
    x = torch.randn(2, 3, 4, 6)
    y = squeeze(x)
    assert y.shape == (2, 12, 2, 3)
    # Place (1, 0) in the block is the third; colour 2 of it is channel 2 * 3 + 2.
    assert torch.equal(y[:, 8], x[:, 2, 1::2, 0::2])
    assert torch.equal(unsqueeze(y), x)


def test_actnorm_starts_from_the_statistics_of_its_first_batch():
    layer, x = ActNorm(3).double(), 5 + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1) * torch.randn(16, 3, 6, 6)
    y, _ = layer.train()(x.double())
    assert y.mean((0, 2, 3)).abs().max() < 1e-12
    assert (y.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-9
    after, _ = layer(2 * x.double())
    assert (after - y).abs().max() > 1, "set a second time"


# The whole flow


@pytest.mark.parametrize(("channels", "size", "scales"), [(1, 8, 3), (3, 4, 2), (1, 6, 2)])
def test_log_density_is_the_change_of_variables_by_autograd(channels, size, scales):
    model = RealNVP(Config(channels=channels, size=size, levels=17, scales=scales, width=8))
    model = stirred(model).double().eval()
    x = dequantise(images(2, channels, size).double(), 17, 0.3)
    log_density = model.log_density(x)
    for i in range(2):
        z = model.flow(x[i : i + 1])[0]
        expected = autograd_log_det(model.flow, x[i : i + 1]) - 0.5 * (z.square() + math.log(2 * math.pi)).sum()
        assert abs(expected - log_density[i]) < 1e-8


@pytest.mark.parametrize(("channels", "size", "scales"), [(1, 28, 3), (3, 16, 3), (1, 7, 1), (1, 14, 2)])
def test_inverse_in_both_precisions(channels, size, scales):
    model = stirred(RealNVP(Config(channels=channels, size=size, scales=scales, width=8)), 0.05).eval()
    x = images(8, channels, size, 256)
    z = model.encode(x)
    assert z.shape == (8, channels * size * size)
    assert (model.decode(z) - x).abs().max() < 1e-5
    model, x = model.double(), images(8, channels, size, 256).double()
    z = torch.randn(8, channels * size * size, dtype=torch.float64)
    assert (model.flow(model.flow.inverse(z))[0] - z).abs().max() < 1e-10
    # 8-bit values in [-1, 1] come from float32.
    assert (model.decode(model.encode(x)) - x).abs().max() < 1e-7


def test_log_det_of_the_inverse_is_the_opposite():
    model = stirred(RealNVP(Config(size=8, levels=17, scales=3, width=8)), 0.05).double().eval()
    z = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobian = torch.autograd.functional.jacobian(lambda v: model.flow.inverse(v).flatten(), z).view(64, 64)
    again, log_det = model.flow(model.flow.inverse(z))
    assert (again - z).abs().max() < 1e-10
    assert abs(torch.linalg.slogdet(jacobian)[1] + log_det) < 1e-8


def test_untrained_flow_has_the_closed_form_bits_per_dim():
    """Couplings start as the identity, so the model is the logit's: z = logit(alpha + (1 - 2 alpha) x), written out by hand."""
    alpha, levels = 0.05, 17
    model = RealNVP(Config(size=8, levels=levels, scales=3, width=8, alpha=alpha)).double().eval()
    x = images(4).double()
    u = torch.full_like(x, 0.25)
    got = model.bits(model.log_density(dequantise(x, levels, u)))
    p = alpha + (1 - 2 * alpha) * ((x + 1) / 2 * (levels - 1) + u) / levels
    z = (p / (1 - p)).log()
    nats = 0.5 * z**2 + 0.5 * math.log(2 * math.pi) - math.log(1 - 2 * alpha) + (p * (1 - p)).log()
    expected = (nats.flatten(1).mean(1) + math.log(levels)) / math.log(2)
    assert torch.allclose(got, expected, atol=1e-6)  # images are float32 multiples of 1/8: exact; levels / 17 is not
    assert (got - math.log2(levels)).abs().max() > 0.05


def test_one_pixel_probabilities_bound_and_sum():
    """For one grey value alone: sum over k of P(k) is 1, and the mean of the bound over u is above -log2 P(k), but not by much."""
    levels, steps = 17, 400
    flow = stirred(Chain([Logit(0.05), ActNorm(1)]), 0.5).double()
    x = (torch.arange(levels * steps, dtype=torch.float64) + 0.5) / (levels * steps)
    z, log_det = flow(x.view(-1, 1))
    log_p = (standard_normal_log_density(z) + log_det).view(levels, steps)
    probability = log_p.exp().mean(1) / levels
    # The logit's range is [logit(alpha), logit(1 - alpha)]: what the normal puts outside is not in the cube.
    ends, _ = flow(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    inside = torch.distributions.Normal(0.0, 1.0).cdf(ends).diff(dim=0).item()
    assert abs(probability.sum().item() - inside) < 1e-5
    bound = bits_per_dim(log_p, 1, levels).mean(1)
    exact = -probability.log2()
    assert (bound >= exact).all()
    assert (bound - exact).max() < 0.1


def test_bits_per_dim_averages_draws_and_is_seeded():
    model = stirred(RealNVP(Config(size=8, levels=17, scales=2, width=8)), 0.1).eval()
    x = images(64)
    assert model.likelihood == "bound"
    one = model.bits_per_dim(x, generator=3)
    assert torch.equal(one, model.bits_per_dim(x, generator=3))
    assert not torch.equal(one, model.bits_per_dim(x, generator=4))
    single = torch.stack([model.bits_per_dim(x, generator=s) for s in range(40)])
    many = torch.stack([model.bits_per_dim(x, generator=100 + s, samples=10) for s in range(4)])
    assert abs(single.mean() - many.mean()) < 4 * single.std(0).mean() / math.sqrt(64 * 40)
    assert many.std(0).mean() < 0.5 * single.std(0).mean()


def test_dequantisation_and_back():
    for levels in (2, 17, 256):
        x = 2 * torch.arange(levels).float() / (levels - 1) - 1
        assert torch.equal(level_of(x, levels), torch.arange(levels).float())
        for u in (0.0, 0.5, 0.999):
            assert torch.allclose(quantise(dequantise(x, levels, u), levels), x, atol=1e-6)
            # A draw that is rounded to the nearest grey value lands where floor would put it.
            assert torch.equal(
                level_of(centre_of(dequantise(x, levels, max(u, 0.001)), levels), levels), level_of(x, levels)
            )
        assert torch.allclose(centre_of(dequantise(x, levels, 0.5), levels), x, atol=1e-6)


# Trained


def test_density_on_the_plane_integrates_to_one_and_learns_a_ring():
    generator = torch.Generator().manual_seed(0)

    def ring(_, n=256):
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        radius = 2 + 0.3 * torch.randn(n, generator=generator)
        return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    torch.manual_seed(0)
    flow = train(planar(32), ring, 300, 1e-2).double()
    axis = torch.linspace(-6, 6, 481, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        z, log_det = flow(grid)
        p = (standard_normal_log_density(z) + log_det).exp()
    area = (axis[1] - axis[0]) ** 2
    assert abs((p.sum() * area).item() - 1) < 1e-3
    # The data's own entropy is about log(2 pi 2) + 1/2 log(2 pi e 0.09); a Gaussian fit would need 3.5 nats.
    radius = grid.norm(dim=1)
    assert (p * area)[(radius - 2).abs() < 0.9].sum() > 0.9
    assert (p * area)[radius < 1].sum() < 0.06
    x = ring(0, 4000).double()
    with torch.no_grad():
        z, log_det = flow(x)
        nats = -(standard_normal_log_density(z) + log_det).mean()
    entropy = math.log(4 * math.pi) + 0.5 * math.log(2 * math.pi * math.e * 0.09)
    assert entropy - 0.1 < nats < entropy + 0.25
    # Samples push forward to what the density says.
    samples = flow.inverse(torch.randn(4000, 2, dtype=torch.float64)).detach()
    assert abs(samples.norm(dim=1).median().item() - 2) < 0.1


def test_trained_on_a_gaussian_reaches_its_entropy():
    """x = A e, correlated: an affine flow can be exact, and its cross-entropy is then the entropy of the Gaussian."""
    generator = torch.Generator().manual_seed(1)
    mix = torch.tensor([[1.0, 0.0], [0.9, 0.3]])

    def draw(_, n=512):
        return torch.randn(n, 2, generator=generator) @ mix.T

    torch.manual_seed(0)
    flow = train(planar(16, 2), draw, 250, 1e-2)
    x = draw(0, 20_000)
    with torch.no_grad():
        z, log_det = flow(x)
        got = -(standard_normal_log_density(z) + log_det).mean().item()
    entropy = 0.5 * math.log((2 * math.pi * math.e) ** 2 * (0.3**2))
    own = x.T.cov()  # of this draw: the best any Gaussian can do on it
    best = 0.5 * (torch.linalg.slogdet(own)[1] + 2 * math.log(2 * math.pi) + 2).item()
    assert abs(best - entropy) < 0.03
    assert best - 0.01 < got < best + 0.02


@pytest.fixture(scope="module")
def trained():
    """A small flow, briefly trained on digits as the loop would."""
    from sklearn.datasets import load_digits

    data = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    torch.manual_seed(0)
    model = RealNVP(Config(size=8, levels=17, scales=2, width=16, couplings=2, last_couplings=2, lr=3e-3)).train()
    optimizer, generator = model.optimizers()["flow"], torch.Generator().manual_seed(0)
    for step in range(200):
        rows = torch.randint(1400, (64,), generator=generator)
        for update in model.train_step({"image": data[rows]}, Clock(step, 64 * step)):
            optimizer.zero_grad()
            update.loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 50.0)
            optimizer.step()
    return model.eval(), data[1400:]


def test_trained_flow_beats_a_gaussian_and_still_inverts(trained):
    model, held_out = trained
    bits = model.bits_per_dim(held_out, generator=0).mean()
    assert bits < 2.6, bits  # uniform code 4.09, mixture of 10 Gaussians 2.67
    assert (model.reconstruct(held_out) - held_out).abs().max() < 1e-5
    # Dequantised images come out as standard normal noise; the bins' centres, which `encode` takes, vary less.
    z = model.flow(uniform_dequantise(held_out, 17))[0]
    assert abs(z.std() - 1) < 0.1
    assert abs(z.mean()) < 0.1
    assert model.encode(held_out).std() < z.std()
    samples = model.sample(64, generator=0)
    assert torch.isfinite(samples).all()
    assert samples.abs().max() <= 1
    assert abs(samples.mean() - held_out.mean()) < 0.15
    assert torch.isfinite(model.sample(64, generator=0, temperature=3.0)).all()


def test_temperature_scales_the_latents(trained):
    model, _ = trained
    assert torch.allclose(
        model.sample(4, generator=1, temperature=0.7), model.decode(0.7 * model.latents(4, generator=1))
    )
    assert model.sample(64, generator=1, temperature=0.3).std(0).mean() < model.sample(64, generator=1).std(0).mean()


def test_far_images_have_finite_scores_and_gradients(trained):
    model, _ = trained
    x = images(16, seed=5)
    assert torch.isfinite(model.bits_per_dim(x)).all()
    loss = next(model.train_step({"image": x}, Clock())).loss
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    model.zero_grad()


def test_bfloat16_autocast_leaves_the_density_in_float32(trained):
    model, held_out = trained
    x = dequantise(held_out, 17, torch.rand(held_out.shape, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        precise = model.bits(model.log_density(x))
        with torch.autocast("cpu", torch.bfloat16):
            quick = model.bits(model.log_density(x))
    assert quick.dtype == torch.float32
    assert not torch.equal(quick, precise), "autocast did not reach the networks"
    assert abs(quick.mean() - precise.mean()) < 0.02


# Refusals and a peer


@pytest.mark.parametrize(
    ("size", "scales", "message"),
    [(30, 3, r"size 28 or 32.*scales 2"), (7, 2, r"size 6 or 8.*scales 1"), (2, 3, r"size 8.*scales 1")],
)
def test_a_size_that_cannot_be_halved_is_refused(size, scales, message):
    with pytest.raises(UserError, match=message):
        RealNVP(Config(size=size, scales=scales))


def test_suggested_sizes_and_scales_work():
    for size, scales in [(28, 3), (32, 3), (30, 2), (6, 2), (8, 2), (7, 1), (8, 3)]:
        RealNVP(Config(size=size, scales=scales, width=4))


def test_affine_coupling_equals_normflows_with_the_same_network():
    normflows = pytest.importorskip("normflows")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))

    class Interleaved(nn.Module):
        """normflows reads shift and scale from alternating channels, and does not bound the scale."""

        def forward(self, a):
            raw, t = network(a).chunk(2, 1)
            return torch.stack([t, 2 * torch.tanh(raw / 2)], 2).flatten(1)

    theirs = normflows.flows.AffineCouplingBlock(Interleaved(), scale_map="exp")
    ours = Coupling(Halves((4,)), Affine(2.0), network)
    x = torch.randn(64, 4)
    (y, log_det), (their_y, their_log_det) = ours(x), theirs(x)
    log_p = standard_normal_log_density(y) + log_det
    their_log_p = normflows.distributions.DiagGaussian(4, trainable=False).log_prob(their_y) + their_log_det
    assert torch.allclose(y, their_y, atol=1e-6)
    assert torch.allclose(log_p, their_log_p, atol=1e-5)
