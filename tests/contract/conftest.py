"""What every contract test needs: each catalogue entry, small, on the embedded digits (on small shapes, where it needs two domains)."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from limner import capabilities, models
from limner.data import open_data
from limner.data.settings import DataConfig
from limner.training.loop import Trainer
from limner.training.plan import Plan, defaults, replace

torch.set_num_threads(1)


@cache
def digits(split="train"):
    return open_data(DataConfig(data="digits"), split=split)


def source(name: str) -> DataConfig:
    """What the model is tested on."""
    inputs = models.model_class(name).inputs
    if isinstance(inputs, tuple) and "A" in inputs:
        return DataConfig(data="shapes-ab", size=16, count=256)
    return DataConfig(data="digits")


def data(name: str, split="train"):
    """The data set of the model's tests."""
    return digits(split) if source(name).data == "digits" else open_data(source(name), split=split)


def images_of(name: str, n: int, split="test"):
    """n images (n, C, H, W) of the data set; of its first domain, if it has two."""
    batch = data(name, split).batch(range(n))
    return batch["image"] if "image" in batch else batch["A"]


def plan(name: str, **train) -> Plan:
    """The model's preset for its data, with other training settings."""
    chosen, settings, config = defaults(name, data(name))
    settings = replace(settings, {"device": "cpu", **train}, where="test")
    return Plan(name, chosen, source(name), settings, config)


def trainer(name: str, dataset=None, **train) -> Trainer:
    """A trainer of a fresh model, nothing written to disk."""
    made = plan(name, **train)
    return Trainer(made.build(), dataset or data(name), made.train)


@pytest.fixture(params=list(models.catalogue()))
def name(request):
    return request.param


def can(model, capability: str) -> bool:
    return capability in capabilities.of(model)
