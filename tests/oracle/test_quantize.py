"""Quantisers against written-out references, exact gradients, and vector-quantize-pytorch."""

import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limner.errors import UserError
from limner.nn.quantize import FSQ, VectorQuantizer


def vectors(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def begun(quantizer, z):
    """The quantiser after its first batch."""
    torch.manual_seed(0)
    quantizer.train()(z)
    return quantizer


@pytest.mark.parametrize("learn", ["ema", "gradient"])
@pytest.mark.parametrize("cosine", [False, True])
def test_the_nearest_code_is_found(learn, cosine):
    z = vectors(6, 5, 7, 4)
    q = begun(VectorQuantizer(32, 5, learn=learn, cosine=cosine), z).eval()
    found = q(z)
    rows = z.double().permute(0, 2, 3, 1)
    rows = F.normalize(rows, dim=-1) if cosine else rows
    distance = (rows[..., None, :] - q.codes.double()).square().sum(-1)  # (6, 7, 4, 32)
    assert torch.equal(found.indices, distance.argmin(-1))
    assert torch.equal(q.find(z), found.indices)
    assert torch.equal(found.code, q.lookup(found.indices))  # to the last bit: what is decoded is what codes give
    assert found.code.shape == z.shape
    p = np.bincount(found.indices.flatten(), minlength=32) / found.indices.numel()
    assert found.perplexity.item() == pytest.approx(math.exp(-sum(v * math.log(v) for v in p if v)), rel=1e-5)
    assert found.perplexity > 16


@pytest.mark.parametrize("make", [lambda: VectorQuantizer(16, 3, beta=0), lambda: FSQ((8, 5, 4))])
def test_straight_through_the_encoder_gets_the_decoders_gradient(make):
    q, z = make(), vectors(4, 3, 6, 6).requires_grad_()
    decoder = torch.nn.Conv2d(3, 2, 3)
    found = q.train()(z)
    found.code.retain_grad()
    (decoder(found.code).tanh().sum() + found.loss).backward()
    assert found.code.grad.abs().min() > 0
    if isinstance(q, FSQ):  # the rounding is passed, the bound is not
        bounded = z.detach().movedim(1, -1).requires_grad_()
        q.bound(bounded).backward(found.code.grad.movedim(1, -1) / (q.levels // 2))
        torch.testing.assert_close(z.grad, bounded.grad.movedim(-1, 1), rtol=1e-6, atol=0)
    else:
        assert torch.equal(z.grad, found.code.grad)


def test_gradients_of_both_losses_are_those_of_equation_3():
    z = vectors(3, 4, 5, 5).requires_grad_()
    q = begun(VectorQuantizer(8, 4, learn="gradient", beta=0.3), vectors(3, 4, 5, 5, seed=1)).eval()
    found = q(z)
    found.loss.backward()
    with torch.no_grad():
        n, code = z.numel(), q.lookup(found.indices)
        assert found.loss.item() == pytest.approx(1.3 * float((z - code).square().sum()) / n, rel=1e-5)
        torch.testing.assert_close(z.grad, 0.3 * 2 * (z - code) / n)
        wanted = torch.zeros(8, 4).index_add_(
            0, found.indices.flatten(), (2 * (code - z) / n).movedim(1, -1).reshape(-1, 4)
        )
        torch.testing.assert_close(q.codebook.grad, wanted)


@pytest.mark.parametrize("cosine", [False, True])
def test_the_moving_averages_are_those_of_appendix_a1(cosine):
    size, width, decay, epsilon = 12, 4, 0.9, 1e-3
    q = begun(
        VectorQuantizer(size, width, decay=decay, epsilon=epsilon, restart=0, cosine=cosine), vectors(2, width, 3, 3)
    )
    count, total, book = (t.double().numpy().copy() for t in (q.count, q.total, q.codebook))
    for step in range(6):
        z = vectors(5, width, 4, 4, seed=10 + step) + 0.3 * step  # the encoder drifts
        index = q(z).indices.flatten().numpy()
        rows = z.permute(0, 2, 3, 1).reshape(-1, width).double().numpy()
        if cosine:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        nearest = [min(range(size), key=lambda k: ((row - book[k]) ** 2).sum()) for row in rows]
        np.testing.assert_array_equal(index, nearest)
        for k in range(size):
            mine = rows[index == k]
            count[k] = decay * count[k] + (1 - decay) * len(mine)
            total[k] = decay * total[k] + (1 - decay) * mine.sum(0)
        n = count.sum()
        for k in range(size):
            book[k] = total[k] / ((count[k] + epsilon) / (n + size * epsilon) * n)
        if cosine:
            book /= np.linalg.norm(book, axis=1, keepdims=True)
        np.testing.assert_allclose(q.codebook.numpy(), book, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(q.count.numpy(), count, rtol=1e-5)


def test_a_codebook_begins_on_the_first_batch_and_unused_codes_come_back():
    z = vectors(8, 2, 4, 4)
    q = VectorQuantizer(32, 2, decay=0.8)
    torch.nn.init.constant_(q.codebook, 100.0)  # far from everything
    begun(q, z)
    rows = {tuple(row) for row in z.movedim(1, -1).reshape(-1, 2).tolist()}
    q = VectorQuantizer(32, 2, decay=0.8)
    q.revive(z.movedim(1, -1).reshape(-1, 2))
    assert all(tuple(code) in rows for code in q.codebook.tolist())
    assert len(q.codebook.unique(dim=0)) == 32
    # The encoder leaves: one code catches all vectors, until those that starve follow.
    used = []
    for step in range(40):
        torch.manual_seed(step)
        used.append(q(z + 50).perplexity.item())
    assert used[0] < 4
    assert used[-1] > 16
    never = VectorQuantizer(32, 2, decay=0.8, restart=0)
    for step in range(40):
        last = begun(never, z + (50 if step else 0))(z + 50).perplexity.item()
    assert last < 4


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_evaluation_changes_nothing_and_a_saved_state_goes_on_to_the_bit(learn):
    one = begun(VectorQuantizer(16, 3, learn=learn, decay=0.8), vectors(4, 3, 5, 5))
    state = {k: v.clone() for k, v in one.state_dict().items()}
    one.eval()(vectors(4, 3, 5, 5, seed=1))
    one.train().find(vectors(4, 3, 5, 5, seed=1))
    assert all(torch.equal(v, state[k]) for k, v in one.state_dict().items())
    two = VectorQuantizer(16, 3, learn=learn, decay=0.8)
    two.load_state_dict(state)
    for step in range(30):
        for q in (one, two):
            torch.manual_seed(step)
            q.train()(vectors(4, 3, 5, 5, seed=step) * (1 + step))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert not torch.equal(one.codebook, state["codebook"])


@pytest.mark.parametrize("make", [lambda: VectorQuantizer(64, 8), lambda: FSQ((8,) * 8)])
def test_under_autocast_everything_is_float32(make):
    z = vectors(4, 8, 6, 6)
    q = make()
    if isinstance(q, VectorQuantizer):
        begun(q, z)
        q.codebook[1::2] = q.codebook[::2] * (1 + 2e-4)  # neighbours that bfloat16 (2^-8) cannot tell apart
    q.eval()
    with torch.autocast("cpu", torch.bfloat16):
        inside, index = q(z), q.find(z)
    outside = q(z)
    assert inside.code.dtype == torch.float32
    assert torch.equal(inside.indices, outside.indices)
    assert torch.equal(index, outside.indices)
    assert torch.equal(inside.code, outside.code)


# ---- FSQ


@pytest.mark.parametrize("levels", [(8, 6, 5), (5, 4, 3), (7,)])
def test_fsq_codes_go_there_and_back_over_the_whole_codebook(levels):
    q = FSQ(levels)
    index = torch.arange(q.size).view(1, 1, -1)
    code = q.lookup(index)  # (1, D, 1, K)
    assert q.size == math.prod(levels)
    assert len(code[0, :, 0].T.unique(dim=0)) == q.size
    grids = [[(d - n // 2) / (n // 2) for d in range(n)] for n in levels]
    wanted = sorted(itertools.product(*grids))
    np.testing.assert_allclose(sorted(code[0, :, 0].T.tolist()), wanted, atol=1e-6)
    # A vector that the bound maps onto the code: the inverse of the bound, as far as it is open.
    n = q.levels
    h, o = (n - 1) * (1 + q.EPSILON) / 2, torch.where(n % 2 == 0, 0.5, 0.0)
    z = torch.atanh((code.movedim(1, -1) * (n // 2) + o) / h) - torch.atanh(o / h)
    found = q(z.movedim(-1, 1))
    assert torch.equal(found.indices, index)
    assert torch.equal(found.code, code)
    assert found.perplexity.item() == pytest.approx(q.size, rel=1e-4)
    assert found.loss == 0


def test_fsq_refuses_two_values():
    with pytest.raises(UserError, match="3 values"):
        FSQ((8, 2))


# ---- the peer


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("vector_quantize_pytorch")


@pytest.mark.parametrize("levels", [(8, 6, 5), (5, 5, 4), (8, 8, 8)])
def test_fsq_equals_vector_quantize_pytorch(peer, levels):
    ours, theirs = FSQ(levels), peer.FSQ(levels=list(levels))
    mine, other = (3 * vectors(4, 3, 9, 9)).requires_grad_(), (3 * vectors(4, 3, 9, 9)).requires_grad_()
    found, (code, index) = ours(mine), theirs(other)
    assert torch.equal(found.indices, index.long())
    torch.testing.assert_close(found.code, code, rtol=0, atol=1e-6)
    weight = vectors(4, 3, 9, 9, seed=1)
    (found.code * weight).sum().backward()
    (code * weight).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-7)
    assert torch.equal(ours.lookup(found.indices), theirs.indices_to_codes(index))


@pytest.mark.parametrize("cosine", [False, True])
def test_vq_equals_vector_quantize_pytorch(peer, cosine):
    """Same codes, values, loss, gradients and moving averages over several steps."""
    size, width = 64, 16
    ours = begun(VectorQuantizer(size, width, beta=0.25, decay=0.9, restart=0, cosine=cosine), vectors(8, width, 7, 7))
    theirs = peer.VectorQuantize(
        dim=width,
        codebook_size=size,
        decay=0.9,
        eps=1e-5,
        commitment_weight=0.25,
        use_cosine_sim=cosine,
        rotation_trick=False,
        threshold_ema_dead_code=0,
        accept_image_fmap=True,
    ).train()
    theirs._codebook.embed.copy_(ours.codebook[None])
    theirs._codebook.embed_avg.copy_(ours.total[None])
    theirs._codebook.cluster_size.copy_(ours.count[None])
    weight = vectors(8, width, 7, 7, seed=1)
    for step in range(5):
        mine, other = ((vectors(8, width, 7, 7, seed=5 + step) + 0.2 * step).requires_grad_() for _ in range(2))
        found, (code, index, loss) = ours(mine), theirs(other)
        assert torch.equal(found.indices, index)
        torch.testing.assert_close(found.code, code, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.loss, loss.squeeze(), rtol=1e-5, atol=1e-7)
        for value, term, z in ((found.code, found.loss, mine), (code, loss, other)):
            ((value * weight).mean() + term.sum()).backward()
            assert z.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(ours.count, theirs._codebook.cluster_size[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.codebook, theirs._codebook.embed[0], rtol=1e-4, atol=1e-5)
    assert (ours.codebook - begun(VectorQuantizer(size, width), vectors(8, width, 7, 7)).codebook).abs().max() > 0.1


def test_vq_by_gradient_equals_vector_quantize_pytorch(peer):
    """Their learnable codebook is equation 3 with beta = 1, both terms in one mean."""
    ours = begun(VectorQuantizer(32, 8, learn="gradient", beta=1.0), vectors(4, 8, 7, 7))
    theirs = peer.VectorQuantize(
        dim=8,
        codebook_size=32,
        learnable_codebook=True,
        ema_update=False,
        rotation_trick=False,
        accept_image_fmap=True,
    ).train()
    with torch.no_grad():
        theirs._codebook.embed.copy_(ours.codebook[None])
    mine, other = (vectors(4, 8, 7, 7, seed=3).requires_grad_() for _ in range(2))
    found, (_, index, loss) = ours.eval()(mine), theirs(other)
    assert torch.equal(found.indices, index)
    torch.testing.assert_close(found.loss / 2, loss.squeeze(), rtol=1e-5, atol=0)
    found.loss.backward()
    loss.sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(ours.codebook.grad, theirs._codebook.embed.grad[0], rtol=1e-4, atol=1e-8)


# ---- several processes

PROCESS = """
import sys, torch, torch.distributed as dist
from limner.nn.quantize import VectorQuantizer
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
q = VectorQuantizer(16, 3, decay=0.8)
for step in range(20):
    z = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(step)) + step / 5
    torch.manual_seed(100 * step + rank)
    q(z.chunk(2)[rank])
torch.save(q.state_dict(), f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_have_one_codebook(tmp_path):
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script, tmp_path]
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    a, b = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert a["count"].sum().item() == pytest.approx(8 * 16, rel=0.05)  # the vectors of both
