"""A plan that fits into a given time: how many images this machine sees in it is measured first."""

from __future__ import annotations

import dataclasses
import time

from limner.data.dataset import Dataset
from limner.training.loop import Trainer
from limner.training.plan import Plan, replace

CALIBRATION = 1.5
"""Seconds in which the speed of a model on this machine is measured."""


def fit(plan: Plan, dataset: Dataset, seconds: float) -> Plan:
    """The plan with as many training images as this machine sees in `seconds`, measuring included."""
    return with_images(plan, max(int(speed(plan, dataset) * (seconds - CALIBRATION)), 10 * plan.train.batch))


def with_images(plan: Plan, images: int) -> Plan:
    """The plan for a run of `images` training images; the warm-up takes a tenth of them at most."""
    changes = {"images": images, "warmup": min(plan.train.warmup, images // 10)}
    return dataclasses.replace(plan, train=replace(plan.train, changes, where="--minutes"))


def speed(plan: Plan, dataset: Dataset) -> float:
    """Images a second that training sees here, measured on a model that is then thrown away."""
    trainer = Trainer(plan.build(), dataset, plan.train)
    for _ in range(3):  # the first steps allocate and initialise
        trainer.step()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < CALIBRATION:
        trainer.step()
        steps += 1
    return steps * plan.train.batch / (time.perf_counter() - started)
