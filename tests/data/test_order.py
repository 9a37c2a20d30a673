"""The batch is a pure function of (seed, rank, images seen)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.data.order import batch_indices


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 50),
    seed=st.integers(0, 5),
    seen=st.integers(0, 300),
    batch=st.integers(1, 40),
    world=st.integers(1, 5),
)
def test_ranks_together_read_what_one_process_reads(n, seed, seen, batch, world):
    parts = [batch_indices(n, seed, seen, batch, rank=r, world=world) for r in range(world)]
    assert np.concatenate(parts).tolist() == batch_indices(n, seed, seen, batch).tolist()


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 50), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_the_sequence_does_not_depend_on_how_it_is_cut(n, sizes):
    total, seen, pieces = sum(sizes), 0, []
    for size in sizes:
        pieces.append(batch_indices(n, 3, seen, size))
        seen += size
    assert np.concatenate(pieces).tolist() == batch_indices(n, 3, 0, total).tolist()


def test_every_epoch_is_another_permutation():
    first, second = batch_indices(100, 0, 0, 100), batch_indices(100, 0, 100, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist() != list(range(100))
    assert batch_indices(100, 1, 0, 100).tolist() != first.tolist()


def test_a_batch_may_be_larger_than_an_epoch():
    assert np.bincount(batch_indices(7, 0, 14, 28)).tolist() == [4] * 7


@pytest.mark.parametrize("wrong", [(0, 0, 0, 1), (5, 0, -1, 1), (5, 0, 0, 0)])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="no batch"):
        batch_indices(*wrong)
