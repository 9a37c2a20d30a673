"""The Inception network of the FID and of the Inception Score, as an extractor.

Szegedy et al. 2016, arXiv 1512.00567 (Inception v3), in the one set of weights that Salimans et al. 2016, arXiv 1606.03498, and
Heusel et al. 2017, arXiv 1706.08500, measured with: TensorFlow's graph of 2015-12-05, ported to PyTorch. It differs from the
paper's network, and from torchvision's, in three ways that these weights rest on: average pooling does not count the padding,
the last block takes a maximum where the others average, and there are 1008 classes.

Its features are the 2048 activations after the last pooling. The Inception Score needs class probabilities: `logits` gives them
*without* the last layer's bias, as the original score did (torch-fidelity's `logits_unbiased`).

The weights are not part of limner, and limner does not download them: `find_weights` says where it looks. Only the standard file makes a
Frechet distance an FID. The same network with other weights works, under another name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner.data import cache
from limner.errors import UserError
from limner.files import sha256
from limner.metrics.resize import RESIZES, SIZE
from limner.nn.weights import read_state_dict, weights_hash

FILES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
"""The standard file, as pytorch-fid and as torch-fidelity call it; one content."""
STANDARD = "6726825d"
"""How the SHA-256 of the standard file begins."""
VARIABLE = "LIMNER_INCEPTION"
"""Environment variable with the path of the weights, or of a folder that has one of `FILES`."""
FEATURES, CLASSES = 2048, 1008


# ---- the network

Step = tuple[int, int | tuple[int, int]]
"""A convolution: channels out, kernel."""
FORK: Step = (384, 0)
"""Two convolutions side by side, 1 x 3 and 3 x 1, of 384 channels each."""


class Convolution(nn.Module):
    """Convolution, batch normalisation (moments fixed), ReLU: (B, C, H, W) to (B, C', H', W')."""

    def __init__(self, channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad else 0
        self.conv = nn.Conv2d(channels, out, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Block(nn.Module):
    """Branches of convolutions over one input, concatenated; the branch called `branch_pool` pools first.

    With stride 2 the last step of each branch has it, unpadded: (B, C, 2h + 1, 2w + 1) becomes (B, C', h, w).
    Convolutions are called as in the weights: `branch1x1` where the branch has one, else `branch5x5_1`, ...; forks `..._2a`, `..._2b`.
    """

    def __init__(
        self, channels: int, branches: Mapping[str, tuple[Step, ...]], pool: Callable[[Tensor], Tensor], stride: int = 1
    ):
        super().__init__()
        self.pool = pool
        self.branches: dict[
            str, list[list[str]]
        ] = {}  # by branch, the names of the convolutions side by side in each step
        for branch, steps in branches.items():
            self.branches[branch] = []
            width = channels
            for number, step in enumerate(steps, 1):
                name = branch if len(steps) == 1 else f"{branch}_{number}"
                out, kernel = step
                if step is FORK:
                    side_by_side = {
                        f"{name}a": Convolution(width, out, (1, 3)),
                        f"{name}b": Convolution(width, out, (3, 1)),
                    }
                elif number == len(steps):
                    side_by_side = {name: Convolution(width, out, kernel, stride, pad=stride == 1)}
                else:
                    side_by_side = {name: Convolution(width, out, kernel)}
                for key, convolution in side_by_side.items():
                    self.add_module(key, convolution)
                self.branches[branch].append(list(side_by_side))
                width = out * len(side_by_side)

    def forward(self, x: Tensor) -> Tensor:
        ends = []
        for branch, steps in self.branches.items():
            h = self.pool(x) if branch == "branch_pool" else x
            for names in steps:
                parts = [self.get_submodule(name)(h) for name in names]
                h = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
            ends.append(h)
        return torch.cat(ends, 1)


def average(x: Tensor) -> Tensor:
    """3 x 3 means, of the pixels inside the image only."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """3 x 3 maxima."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def reduction(x: Tensor) -> Tensor:
    """3 x 3 maxima, every second."""
    return F.max_pool2d(x, 3, stride=2)


def block_a(channels: int, pooled: int) -> Block:
    """Figure 5 of the paper: 5 x 5 in one branch, two 3 x 3 in another."""
    double = ((64, 1), (96, 3), (96, 3))
    branches = {"branch1x1": ((64, 1),), "branch5x5": ((48, 1), (64, 5)), "branch3x3dbl": double}
    return Block(channels, branches | {"branch_pool": ((pooled, 1),)}, average)


def block_b() -> Block:
    """Figure 10: 35 x 35 to 17 x 17."""
    branches = {"branch3x3": ((384, 3),), "branch3x3dbl": ((64, 1), (96, 3), (96, 3)), "branch_pool": ()}
    return Block(288, branches, reduction, stride=2)


def block_c(width: int) -> Block:
    """Figure 6 with n = 7: 7 x 7 as 1 x 7 and 7 x 1."""
    row, column = (1, 7), (7, 1)
    once = ((width, 1), (width, row), (192, column))
    twice: tuple[Step, ...] = ((width, 1), (width, column), (width, row), (width, column), (192, row))
    branches = {"branch1x1": ((192, 1),), "branch7x7": once, "branch7x7dbl": twice, "branch_pool": ((192, 1),)}
    return Block(768, branches, average)


def block_d() -> Block:
    """17 x 17 to 8 x 8."""
    deep: tuple[Step, ...] = ((192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3))
    return Block(768, {"branch3x3": ((192, 1), (320, 3)), "branch7x7x3": deep, "branch_pool": ()}, reduction, stride=2)


def block_e(channels: int, pool: Callable[[Tensor], Tensor]) -> Block:
    """Figure 7: branches that fork into 1 x 3 and 3 x 1."""
    branches = {"branch1x1": ((320, 1),), "branch3x3": ((384, 1), FORK), "branch3x3dbl": ((448, 1), (384, 3), FORK)}
    return Block(channels, branches | {"branch_pool": ((192, 1),)}, pool)


class Network(nn.Module):
    """Images (B, 3, 299, 299) as `limner.metrics.resize` gives them, to features (B, 2048). Submodules are called as in the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b()
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (block_c(width) for width in (128, 160, 160, 192))
        self.Mixed_7a = block_d()
        self.Mixed_7b, self.Mixed_7c = block_e(1280, average), block_e(2048, maximum)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(reduction(x)))  # (B, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(reduction(x))))  # (B, 288, 35, 35)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (B, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        return x.mean((2, 3))


# ---- the extractor


class Inception:
    """The network as an extractor: uint8 images of any size in, 2048 features out."""

    def __init__(
        self, network: Network, *, resize: str = "tf", device: str | torch.device = "cpu", standard: bool = False
    ):
        """
        Args:
            network: with its weights.
            resize: a key of `limner.metrics.resize.RESIZES`.
            device: where it runs.
            standard: whether its weights are those of the standard file.

        Raises:
            ValueError: there is no such `resize`.
        """
        if resize not in RESIZES:
            raise ValueError(f"there is no resize '{resize}': {', '.join(RESIZES)}")
        self.name = "inception" if standard else "inception with other weights"
        self.standard = standard
        """Whether a Frechet distance of these features is an FID."""
        self.hash = weights_hash(network)
        self.resize = RESIZES[resize].words
        self.device = torch.device(device)
        self.batch = 32
        """Images that go through the network at once; another number changes features by float32 rounding only."""
        self._resized = RESIZES[resize].apply
        # On CPUs 1.3 times as fast as the usual order of the axes.
        self._order: torch.memory_format = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        self._network = network.to(self.device).eval().requires_grad_(False)
        self._network.to(memory_format=self._order)  # type: ignore[call-overload]

    def __call__(self, images: Tensor) -> Tensor:
        """Features (N, 2048) float64, on the CPU, of images (N, H, W, 1 or 3) uint8."""
        return torch.cat([self.embed(self.prepare(part)) for part in images.split(self.batch)])

    def prepare(self, images: Tensor) -> Tensor:
        """The network's input (N, 3, 299, 299) of images (N, H, W, 1 or 3) uint8."""
        device = torch.device("cpu") if self.device.type == "mps" else self.device  # which has no float64
        return self._resized(images.to(device), SIZE).to(self.device)

    @torch.no_grad()
    def embed(self, prepared: Tensor) -> Tensor:
        """Features (N, 2048) float64, on the CPU, of what `prepare` gave.

        Computed in float32, also where the device would take its 19-bit approximation, and whatever autocast says.
        """
        with (
            torch.autocast(self.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
        ):
            return self._network(prepared.contiguous(memory_format=self._order)).cpu().double()

    def logits(self, features: Tensor) -> Tensor:
        """Logits (N, 1008) float64 of features (N, 2048), without bias: what the Inception Score takes the softmax of."""
        return features.double().cpu() @ self._network.fc.weight.double().cpu().T


def inception(
    weights: str | Path | None = None, *, resize: str = "tf", device: str | torch.device = "cpu"
) -> Inception:
    """The extractor with the weights that `find_weights` finds.

    Raises:
        UserError: there are no weights, or the file is not a file of these weights.
        ValueError: there is no such `resize`.
    """
    if resize not in RESIZES:
        raise ValueError(f"there is no resize '{resize}': {', '.join(RESIZES)}")
    path = find_weights(weights)
    network = load_network(path)
    return Inception(network, resize=resize, device=device, standard=sha256(path).startswith(STANDARD))


# ---- the weights


def find_weights(given: str | Path | None = None) -> Path:
    """The file of the weights: `given` (a file, or a folder that has one of `FILES`), else $LIMNER_INCEPTION, else one of `FILES` in
    limner's cache or in the folder of `torch.hub`, where pytorch-fid and torch-fidelity keep theirs.

    Raises:
        UserError: it is not there; the message says where this looked and what to do.
    """
    for source, place in (("", given), (f" that {VARIABLE} names", os.environ.get(VARIABLE))):
        if place:
            return _at(Path(place).expanduser(), source)
    folders = [cache.root() / "weights", Path(torch.hub.get_dir()) / "checkpoints"]
    for folder in folders:
        for name in FILES:
            if (folder / name).is_file():
                return folder / name
    places = " or ".join(f"'{folder}'" for folder in folders)
    raise UserError(
        f"the weights of the Inception network are not on this machine: no '{FILES[0]}' or '{FILES[1]}' in "
        f"{places}, and {VARIABLE} is not set. Get the first (91 MB, published with "
        f"release 'fid_weights' of mseitzer/pytorch-fid on GitHub) and put it into '{folders[0]}', or set {VARIABLE} to its path"
    )


def load_network(path: Path) -> Network:
    """The network with the weights of a file; no code in the file is run.

    Raises:
        UserError: it cannot be read, or has other tensors than this network.
    """
    try:
        state = read_state_dict(path)
    except UserError as error:
        raise UserError(f"{error}. The weights of the Inception network are the file '{FILES[0]}'") from error
    with torch.device("meta"):  # shapes alone: its own random weights would take longer than reading the file
        network = Network()
    wanted = network.state_dict()
    counters = {
        key for key in wanted if key.endswith("num_batches_tracked")
    }  # used in training only; older files lack them
    missing, unknown = wanted.keys() - counters - state.keys(), state.keys() - wanted.keys()
    misshapen = [key for key in wanted.keys() - counters - missing if state[key].shape != wanted[key].shape]
    if missing or unknown or misshapen:
        several = [
            f"{len(keys)} tensors {what}, such as '{min(keys)}'"
            for keys, what in ((missing, "missing"), (unknown, "unknown"), (misshapen, "of another shape"))
            if keys
        ]
        hint = "; it looks like torchvision's Inception, which is another" if "AuxLogits.fc.weight" in state else ""
        raise UserError(
            f"'{path}' is not the Inception network of the FID ({', '.join(several)}){hint}: the file is '{FILES[0]}'"
        )
    floats = {key: state[key].float() for key in wanted.keys() - counters}
    if not all(bool(torch.isfinite(value).all()) for value in floats.values()):
        raise UserError(f"'{path}' is damaged: not all of its numbers are finite. Get '{FILES[0]}' again")
    network.load_state_dict(floats | dict.fromkeys(counters, torch.zeros((), dtype=torch.long)), assign=True)
    return network


def _at(path: Path, source: str) -> Path:
    if path.is_dir():
        for name in FILES:
            if (path / name).is_file():
                return path / name
        raise UserError(
            f"the folder '{path}'{source} has neither '{FILES[0]}' nor '{FILES[1]}', the weights of the Inception network"
        )
    if not path.is_file():
        raise UserError(
            f"there is no file '{path}'{source}: it should be '{FILES[0]}', the weights of the Inception network"
        )
    return path
