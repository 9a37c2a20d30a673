"""Quantisers: each vector of a feature map is replaced by one of finitely many codes, and its gradient passes as if it were not.

**Vector quantisation** (van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning"; lecture 001). A codebook
e_1 .. e_K in R^D; the code of z is the nearest,

    z_q = e_k,   k = argmin_j ||z - e_j||^2 = argmin_j (||e_j||^2 - 2 z . e_j)          (equations 1 and 2)

    dL/dz := dL/dz_q                                              (straight-through estimator, section 3.2)

    learn="gradient":  ||sg[z] - e||^2 + beta ||z - sg[e]||^2                            (equation 3, its last two terms)
    learn="ema":       beta ||z - sg[e]||^2,  and e_i is the mean of the vectors that were given code i lately,

        N_i <- decay N_i + (1 - decay) n_i,   m_i <- decay m_i + (1 - decay) sum_{j: k_j = i} z_j,   e_i = m_i / N_i    (appendix A.1)

with N_i under Laplace smoothing, (N_i + epsilon) / (N + K epsilon) N where N = sum_i N_i. All norms here are means over the D numbers.

**Codes that nobody uses** would stay unused: no gradient and no mean reaches them. A code whose N_i is below `restart` times an equal share
of the vectors is therefore put on a vector z drawn from the batch (Dhariwal et al. 2020, "Jukebox", section 3.1, there below a fixed
threshold). The first batch finds all of them unused: so a codebook begins on encoder outputs.

**Cosine** codes (Yu et al. 2022, "Vector-quantized Image Modeling with Improved VQGAN", section 3.2): z and e have length one.

**Finite scalar quantisation** (Mentzer, Minnen, Agustsson & Tschannen 2024, "Finite Scalar Quantization: VQ-VAE Made Simple", section 3):
no codebook is learned. Each of a few numbers is bounded and rounded to L_i values, and the code is their combination, one of prod L_i.

Several processes count and sum over all of them, and take new codes from the first: the codebook is the same everywhere. Micro-batches,
though, each move the averages once: the codebook of a step in parts is not that of the whole step, as with the statistics of batch
normalisation. Everything is float32, also under autocast: with bfloat16's eight bits neighbouring codes could not be told apart.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from limner.errors import UserError


class Quantized(NamedTuple):
    """What a quantiser makes of a map of vectors (B, D, h, w)."""

    code: Tensor
    """(B, D, h, w) float32, the codes' values, with the gradient of the map."""
    indices: Tensor
    """(B, h, w) int64, which codes, from 0."""
    loss: Tensor
    """Scalar, to be added to the loss: the codebook's and the commitment's terms. 0 for FSQ."""
    perplexity: Tensor
    """Scalar, exp of the entropy of the codes in this batch: from 1 to the size of the codebook."""


class Quantizer(nn.Module):
    """Base of the quantisers: (B, width, h, w) -> `Quantized`, and the way back by `lookup`."""

    size: int
    """How many codes there are, K."""
    width: int
    """Numbers in a vector, D."""

    def find(self, z: Tensor) -> Tensor:
        """The codes (B, h, w) int64 of a map of vectors (B, width, h, w); nothing is learned from it."""
        raise TypeError(f"{type(self).__name__} must define find()")

    def lookup(self, index: Tensor) -> Tensor:
        """Codes (B, h, w) int64 in [0, size) -> their values (B, width, h, w) float32."""
        raise TypeError(f"{type(self).__name__} must define lookup()")


class VectorQuantizer(Quantizer):
    """Nearest code of a learned codebook.

    Args:
        size: codes, K.
        width: numbers in a code, D.
        learn: the codebook, by moving averages ("ema") or by the loss ("gradient": `codebook` is a parameter then).
        beta: weight of the commitment, in the loss.
        decay: of the moving averages, per forward pass in training mode.
        epsilon: of the Laplace smoothing.
        restart: a code used less than this share of equal use begins afresh; 0 for never. With Adam, a parameter's moments stay.
        cosine: vectors and codes are of length one.
    """

    codebook: Tensor
    """(K, D) e."""
    count: Tensor
    """(K,) N; all 0 before the first batch. With learn="gradient" too, to know what is unused."""
    total: Tensor
    """(K, D) m, with learn="ema"."""

    def __init__(
        self,
        size: int,
        width: int,
        *,
        learn: Literal["ema", "gradient"] = "ema",
        beta: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        restart: float = 0.1,
        cosine: bool = False,
    ):
        super().__init__()
        self.size, self.width, self.learn = size, width, learn
        self.beta, self.decay, self.epsilon, self.restart, self.cosine = beta, decay, epsilon, restart, cosine
        codebook = torch.randn(size, width)
        codebook = F.normalize(codebook, dim=1) if cosine else codebook
        if learn == "ema":
            self.register_buffer("codebook", codebook)
            self.register_buffer("total", torch.zeros(size, width))
        else:
            self.codebook = nn.Parameter(codebook)
        self.register_buffer("count", torch.zeros(size))

    @property
    def codes(self) -> Tensor:
        """(K, D) the codes as vectors are compared with them."""
        return F.normalize(self.codebook, dim=1) if self.cosine and self.learn == "gradient" else self.codebook

    def lookup(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.codes).movedim(-1, 1)

    def find(self, z: Tensor) -> Tensor:
        z = self.comparable(z)
        return self.nearest(z.reshape(-1, self.width)).view(z.shape[:-1])

    def comparable(self, z: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, h, w, D) float32, of length one where codes are."""
        z = z.float().movedim(1, -1)
        return F.normalize(z, dim=-1) if self.cosine else z

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> its codes. In training mode the codebook moves on (or, with learn="gradient", its unused codes do)."""
        with torch.autocast(z.device.type, enabled=False):
            z = self.comparable(z)
            vectors = z.reshape(-1, self.width)  # (N, D)
            if self.training:
                self.revive(vectors.detach())
            index = self.nearest(vectors)
            code = F.embedding(index, self.codes)
            loss = self.beta * F.mse_loss(vectors, code.detach())
            if self.learn == "gradient":
                loss = loss + F.mse_loss(code, vectors.detach())
            uses = torch.bincount(index, minlength=self.size)
            if self.training:
                self.follow(vectors.detach(), index, uses)
            value = straight_through(code, vectors).view(z.shape).movedim(-1, 1)
        return Quantized(value, index.view(z.shape[:-1]), loss, perplexity(uses))

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N,) int64, the code nearest to each vector; of equal ones the first."""
        codes = self.codes
        with torch.autocast(vectors.device.type, enabled=False):
            return torch.addmm(codes.square().sum(1), vectors, codes.T, alpha=-2).argmin(1)

    @torch.no_grad()
    def follow(self, vectors: Tensor, index: Tensor, uses: Tensor) -> None:
        """Appendix A.1: move N and m, and with them the codes, towards the vectors (N, D) that were given the codes `index` (N,)."""
        if self.learn == "gradient":
            self.count.lerp_(_everywhere(uses.float()), 1 - self.decay)
            return
        both = _everywhere(torch.cat([_sums(vectors, index, self.size), uses.float()[:, None]], dim=1))  # (K, D + 1)
        self.total.lerp_(both[:, :-1], 1 - self.decay)
        self.count.lerp_(both[:, -1], 1 - self.decay)
        total = self.count.sum()
        smooth = (self.count + self.epsilon) / (total + self.size * self.epsilon) * total
        codes = self.total / smooth[:, None]
        self.codebook.copy_(F.normalize(codes, dim=1) if self.cosine else codes)

    @torch.no_grad()
    def revive(self, vectors: Tensor) -> None:
        """Put the codes that are hardly used (on the first batch: all) on random ones of the vectors (N, D)."""
        share = len(vectors) * _processes() / self.size
        begun = bool(self.count.any())
        unused = self.count < self.restart * share if begun else torch.ones_like(self.count, dtype=torch.bool)
        if not unused.any():
            return
        # As many different ones as there are; two codes on one spot would be one code.
        order = torch.randperm(max(len(vectors), self.size), device=vectors.device)[: self.size] % len(vectors)
        fresh = _of_the_first(vectors[order])[unused]
        count = share * (
            2 * self.restart or 1.0
        )  # twice what it must keep: a code that again finds no use has another try soon
        self.codebook[unused] = fresh
        self.count[unused] = count
        if self.learn == "ema":
            self.total[unused] = count * fresh


class FSQ(Quantizer):
    """Finite scalar quantisation to `levels` values for each number of a vector: D = len(levels), K = prod(levels).

    Mentzer et al. 2024, section 3.1 and appendix A: with h = (L - 1) (1 + epsilon) / 2 and o = 1/2 for even L, 0 for odd,

        z_q = round(h tanh(z + atanh(o / h)) - o) / floor(L / 2),

    for L = 5 one of -2 .. 2, for L = 4 one of -2 .. 1, over 2. Straight through the rounding. The code is k = sum_i digit_i prod_{j<i} L_j.
    As in vector-quantize-pytorch: atanh, with which z = 0 becomes 0, where the paper's listing has tan; and epsilon widens, so that the
    outermost values are met by finite z.

    Raises:
        UserError: a number would have fewer than three values (two lie unevenly about 0).
    """

    EPSILON = 1e-3

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        if not levels or min(levels) < 3:
            raise UserError(
                f"FSQ rounds each number to 3 values or more, not to {tuple(levels)}; (8, 6, 5) makes 240 codes"
            )
        self.size, self.width = math.prod(levels), len(levels)
        count = torch.tensor(levels)
        self.register_buffer("levels", count, persistent=False)
        self.register_buffer("basis", torch.cumprod(count, 0) // count, persistent=False)

    def lookup(self, index: Tensor) -> Tensor:
        digits = index[..., None] // self.basis % self.levels  # (B, h, w, D)
        half = self.levels // 2
        return ((digits - half) / half).movedim(-1, 1)

    def find(self, z: Tensor) -> Tensor:
        return self.number(self.bound(z.float().movedim(1, -1)).round())

    def number(self, rounded: Tensor) -> Tensor:
        """(B, h, w, D) whole numbers from -floor(L / 2) -> (B, h, w) int64, the code that they are."""
        return ((rounded.long() + self.levels // 2) * self.basis).sum(-1)

    def forward(self, z: Tensor) -> Quantized:
        """(B, D, h, w) -> its codes, in [-1, 1]."""
        bounded = self.bound(z.float().movedim(1, -1))
        rounded = bounded.detach().round()
        index = self.number(rounded)
        value = (straight_through(rounded, bounded) / (self.levels // 2)).movedim(-1, 1)
        uses = torch.bincount(index.flatten(), minlength=self.size)
        return Quantized(value, index, value.new_zeros(()), perplexity(uses))

    def bound(self, z: Tensor) -> Tensor:
        """(..., D) -> the same, each number between the values that it may be rounded to."""
        h = (self.levels - 1) * (1 + self.EPSILON) / 2
        o = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return h * torch.tanh(z + torch.atanh(o / h)) - o


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """`value` to the last bit, with the gradient of `source`."""
    return value.detach() + (source - source.detach())


def perplexity(uses: Tensor) -> Tensor:
    """exp of the entropy of how often each code is used (K,): 1 for a single code, K for equal use."""
    p = uses / uses.sum()
    return torch.exp(-torch.special.xlogy(p, p).sum())


def _sums(vectors: Tensor, index: Tensor, size: int) -> Tensor:
    """(K, D) sum of the vectors of each code."""
    if vectors.device.type == "cpu":
        return vectors.new_zeros(size, vectors.shape[1]).index_add_(0, index, vectors)
    # index_add_ on a GPU adds in any order; a run that goes on must find the same bits.
    return F.one_hot(index, size).to(vectors.dtype).T @ vectors


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _everywhere(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if _processes() > 1:
        dist.all_reduce(values)
    return values


def _of_the_first(values: Tensor) -> Tensor:
    """Those of the first process."""
    if _processes() > 1:
        dist.broadcast(values, 0)
    return values
