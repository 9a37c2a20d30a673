"""Data: from `--data X` to uint8 images of one size, and from these to batches. `open_data` is the one way in."""

from limner.data.dataset import Dataset, Refused
from limner.data.opening import open_data
from limner.data.order import batch_indices
from limner.data.settings import DataConfig

__all__ = ["DataConfig", "Dataset", "Refused", "batch_indices", "open_data"]
