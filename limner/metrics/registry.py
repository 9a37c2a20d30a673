"""The metrics by name: what each means, for a reader who has never met it, and how it is measured.

A metric asks what a model *can do* and what the data have, never which family the model belongs to. Formulas, ranges, sources and
what each misses stand in the file of each, and together in docs/metrics.md.
"""

from __future__ import annotations

from limner.metrics import model_metrics, sample_metrics
from limner.metrics.metric import Metric

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*sample_metrics.METRICS, *model_metrics.METRICS)}
"""In the order they are measured and shown: speeds after what draws samples, since those draws count as repeats."""
