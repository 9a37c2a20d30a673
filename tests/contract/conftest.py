"""What every contract test needs: each catalogue entry, small, on the embedded digits."""

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


def plan(name: str, **train) -> Plan:
    """The model's preset for digits, with other training settings."""
    chosen, settings, config = defaults(name, digits())
    settings = replace(settings, {"device": "cpu", **train}, where="test")
    return Plan(name, chosen, DataConfig(data="digits"), settings, config)


def trainer(name: str, data=None, **train) -> Trainer:
    """A trainer of a fresh model, nothing written to disk."""
    made = plan(name, **train)
    return Trainer(made.build(), data or digits(), made.train)


@pytest.fixture(params=list(models.catalogue()))
def name(request):
    return request.param


def can(model, capability: str) -> bool:
    return capability in capabilities.of(model)
