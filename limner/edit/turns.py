"""An encoder tuned, without labels, to tell by how many quarter turns an image was turned.

Gidaris et al. 2018, "Unsupervised Representation Learning by Predicting Image Rotations"; for finding anomalies Golan & El-Yaniv
2018, "Deep Anomaly Detection Using Geometric Transformations". To see which way up a thing is one must know the thing, so the
code turns from what rebuilds pixels to what tells kinds apart. It presumes images that have an up: faces, garments, digits; not
textures or views from above.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from limner.data.dataset import Dataset
from limner.data.order import batch_indices, held_out_order
from limner.edit.transfer import UNLABELLED, CodeClassifier, copy_of, encoder_weights
from limner.model import Model

STEPS, BATCH, WARMUP = 300, 128, 30
LR = 2e-3
"""Highest learning rate of Adam, reached after WARMUP steps; from there it falls linearly to zero."""


def turn(x: Tensor) -> tuple[Tensor, Tensor]:
    """The images (B, C, S, S), each turned by 0, 1, 2 or 3 quarters, in equal shares by its place in the batch; and by how many."""
    quarters = torch.arange(len(x), device=x.device) % 4
    turned = torch.empty_like(x)
    for q in range(4):
        turned[quarters == q] = torch.rot90(x[quarters == q], q, (2, 3))
    return turned, quarters


@torch.enable_grad()
def tuned_to_turns(model: Model, data: Dataset, *, seed: int = 0) -> CodeClassifier:
    """A copy of `model`, trained on `data` together with a linear layer on its code to tell the four turns.

    Raises:
        UserError: the model does not encode, or not with gradients.
    """
    unlabelled = data.batch(held_out_order(len(data))[:UNLABELLED], model.device)["image"]
    classifier = CodeClassifier(copy_of(model), unlabelled, 4).train()
    weights = [*encoder_weights(classifier, unlabelled[:2]), *classifier.layer.parameters()]
    optimizer = torch.optim.Adam(weights, lr=LR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = LR * min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))
            x, quarters = turn(data.batch(batch_indices(len(data), seed, step * BATCH, BATCH), model.device)["image"])
            optimizer.zero_grad()
            F.cross_entropy(classifier(x), quarters).backward()
            optimizer.step()
    return classifier.eval()
