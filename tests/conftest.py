"""Shared by all tests: one thread a process (parallel test workers would fight over the cores), a cache of their own."""

import os

import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the subprocesses too, so that their sums are rounded as ours


@pytest.fixture(scope="session")
def _cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(_cache, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(_cache))
