"""Every model of the catalogue can be measured: what it can do decides which figures it has."""

import math

from contract.conftest import can, data, trainer
from limner.metrics.evaluate import evaluate


def test_what_it_can_do_is_measured_and_nothing_fails(name):
    t = trainer(name, batch=16)
    t.step()
    with t.sampling() as model:
        names = ["bits_per_dim", "psnr", "active_units", "codebook_perplexity", "translation_psnr", "seconds_one"]
        found = evaluate(model, data=(data(name), data(name, "test")), n=24, metrics=[*names, "parameters"])
    # A model of two domains reconstructs an image by translating it to its own.
    wanted = {
        "psnr": "translate" if can(model, "translate") else "reconstruct",
        "bits_per_dim": "score",
        "active_units": "infer",
        "seconds_one": "sample",
    }
    wanted |= {"codebook_perplexity": "tokenize", "translation_psnr": "translate"}
    for figure, capability in wanted.items():
        assert (figure in found.figures) == can(model, capability), figure
    assert found.figures["parameters"].value == sum(p.numel() for p in model.parameters())
    for figure, capability in wanted.items():
        if can(model, capability):
            assert not math.isnan(found.figures[figure].value), figure
    assert set(found.figures) | set(found.skipped) == {*names, "parameters"}
