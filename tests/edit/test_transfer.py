"""Fine-tuning against from scratch: that each arm is what it says, and that few labels go farther with a trained encoder."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import toy_runs
from limner.edit import transfer
from limner.errors import UserError
from limner.models.autoencoders.ae import AE, Config
from limner.models.autoencoders.vae import VAE
from limner.models.autoencoders.vae import Config as VAEConfig

TRAIN, TEST = toy_runs.digits()


def images(data, rows=None):
    return data.batch(range(len(data)) if rows is None else rows)["image"]


def batch(count=50, seed=0):
    rows = transfer.balanced(TRAIN.labels, count, seed)
    return rows, images(TRAIN, rows), torch.from_numpy(TRAIN.labels[rows])


@pytest.fixture(scope="module")
def trained():
    """A small autoencoder of the digits after a moment's training."""
    torch.manual_seed(0)
    model, x = AE(Config(size=8, network="mlp", latent=10, hidden=(128, 64))), images(TRAIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(400):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:128]
        optimizer.zero_grad()
        (model.decoder(model.encoder(x[rows])) - x[rows]).square().mean().backward()
        optimizer.step()
    return model.eval()


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_draws_are_balanced_and_repeatable():
    for count in (10, 25, 100):
        rows = transfer.balanced(TRAIN.labels, count, 3)
        of_class = np.bincount(TRAIN.labels[rows], minlength=10)
        assert len(set(rows)) == count
        assert of_class.max() - of_class.min() <= 1
        assert np.array_equal(rows, transfer.balanced(TRAIN.labels, count, 3))
    assert not np.array_equal(rows, transfer.balanced(TRAIN.labels, 100, 4))
    with pytest.raises(UserError, match="at least one for each of the 10"):
        transfer.balanced(TRAIN.labels, 9, 0)
    with pytest.raises(UserError, match="are needed"):
        transfer.balanced(TRAIN.labels, 1430, 0)


def test_the_probe_is_scikit_learn_s_logistic_regression_and_leaves_the_encoder_untouched(trained):
    _, x, y = batch(100)
    before = weights(trained)
    classifier = transfer.CodeClassifier(trained, images(TRAIN)[:500], 10)
    transfer.fit_layer(classifier, x, y)
    assert same(before, weights(trained))
    code = trained.encode(images(TRAIN)[:500]).detach().numpy()
    standard = (trained.encode(x).detach().numpy() - code.mean(0)) / code.std(0, ddof=1)
    assert torch.equal(classifier.raw(x), trained.encode(x))
    peer = LogisticRegression(C=1.0, max_iter=2000, tol=1e-8).fit(standard, y.numpy())
    expected = torch.from_numpy(peer.predict_proba(standard)).float()
    torch.testing.assert_close(torch.softmax(classifier(x), 1), expected, atol=3e-3, rtol=0)


def test_features_are_what_the_last_linear_layer_is_given(trained):
    _, x, _ = batch()
    flatten, layers = trained.encoder
    before = torch.nn.Sequential(flatten, *list(layers)[:-1])(x)
    classifier = transfer.CodeClassifier(trained, x, 10, hidden=True, standardise=False)
    assert before.shape == (50, 64)
    assert torch.equal(classifier.features(x), before)
    torch.testing.assert_close(list(layers)[-1](classifier.features(x)), trained.encode(x))
    # A VAE's code is the first half of its last layer's output; a convolution's is no linear layer's.
    vae = VAE(VAEConfig(size=8, network="mlp", latent=6, hidden=(40,))).eval()
    assert transfer.CodeClassifier(vae, x, 10, hidden=True).features(x).shape == (50, 40)

    class Conv(toy_runs.Toy):
        def __init__(self):
            super().__init__()
            self.inside, self.out = torch.nn.Linear(8, 8), torch.nn.Conv2d(1, 3, 4, stride=4)

        def encode(self, image):
            return self.out(self.inside(image))

        def decode(self, latent):
            return latent

    assert transfer.CodeClassifier(Conv(), x, 10, hidden=True).features(x).shape == (50, 3 * 2 * 2)


def test_from_scratch_has_fresh_weights_and_fine_tuned_starts_from_the_trained_ones(trained):
    new, other, twin = transfer.fresh(trained, 1), transfer.fresh(trained, 2), transfer.copy_of(trained)
    assert same(weights(new), weights(transfer.fresh(trained, 1)))
    for a, b in ((new, trained), (new, other)):
        assert all(not torch.equal(p, q) for p, q in zip(a.encoder.parameters(), b.encoder.parameters(), strict=True))
    assert same(weights(twin), weights(trained))
    _, x, y = batch()
    before = weights(trained)
    classifier = transfer.CodeClassifier(twin, x, 10)
    transfer.fine_tune(classifier, x, y, lr=1e-3)
    assert same(before, weights(trained))  # the copy alone was trained
    moved = {name for name, value in twin.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in twin.named_parameters() if name.startswith("encoder")}  # no decoder


def test_training_is_repeatable_for_a_seed_and_leaves_the_random_numbers_of_others_alone(trained):
    _, x, y = batch()

    def layer(seed):
        classifier = transfer.CodeClassifier(transfer.copy_of(trained), x, 10)
        transfer.fit_layer(classifier, x, y)
        transfer.fine_tune(classifier, x, y, lr=1e-3, seed=seed)
        return classifier.layer.weight

    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = layer(0)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, layer(0))
    assert not torch.equal(first, layer(1))


def test_an_encoder_that_knows_the_classes_needs_few_labels(trained, monkeypatch):
    monkeypatch.setattr(transfer, "LEARNING_RATES", (1e-3,))
    monkeypatch.setattr(transfer, "STEPS", 60)
    knowing, x, y = transfer.copy_of(trained), images(TRAIN), torch.from_numpy(TRAIN.labels)
    optimizer = torch.optim.Adam(knowing.encoder.parameters(), lr=2e-3)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(knowing.encode(x), y).backward()  # ten numbers: a logit for each class
        optimizer.step()
    result = transfer.compare(knowing.eval(), TRAIN, TEST, labels=(20,), seeds=3)
    frozen, tuned, scratch = (result.row(m, 20) for m in transfer.METHODS)
    assert frozen.mean > 0.8
    assert tuned.mean > 0.8
    assert 0.4 < scratch.mean < tuned.mean - 0.05
    assert frozen.recipe is None
    assert tuned.recipe in (("probe", 1e-3), ("random", 1e-3))
    assert tuned.spread == pytest.approx(np.std(tuned.accuracies, ddof=1))
    assert len(tuned.accuracies) == 3
    again = transfer.compare(knowing, TRAIN, TEST, labels=(20,), seeds=3)
    assert [row.accuracies for row in again.rows] == [row.accuracies for row in result.rows]
    gain = 100 * np.mean(np.subtract(tuned.accuracies, scratch.accuracies))
    assert any(f"{gain:+.2f}" in line for line in result.lines())


def test_what_cannot_be_fine_tuned_is_refused(trained):
    x = images(TEST)[:10]
    with pytest.raises(UserError, match="needs a model that encodes"):
        transfer.compare(toy_runs.fitted("histogram"), TRAIN, TEST)
    with pytest.raises(UserError, match="no weights that gradients reach"):
        transfer.compare(toy_runs.fitted("projector"), TRAIN, TEST)
    blind = copy.deepcopy(trained)
    blind.encode = torch.no_grad()(blind.encode)
    with pytest.raises(UserError, match="no weights that gradients reach"):
        transfer.encoder_weights(transfer.CodeClassifier(blind, x, 10), x)
    unlabelled = TRAIN.subset(np.arange(100))
    unlabelled.labels = None
    with pytest.raises(UserError, match="has no labels"):
        transfer.compare(trained, unlabelled, TEST)


def test_the_verb_prints_the_table(tmp_path, capsys, monkeypatch):
    import json

    from limner.cli.detecting import transfer as verb
    from limner.training.run import train

    monkeypatch.setattr(transfer, "STEPS", 10)
    monkeypatch.setattr(transfer, "LEARNING_RATES", (1e-3,))
    train("vae", data="digits", images=1280, out=tmp_path / "run", device="cpu", quiet=True)
    verb(str(tmp_path / "run"), labels=(20,), seeds=2, device="cpu")
    said = capsys.readouterr().out
    assert "| 20 | fine-tuned |" in said
    assert "points from scratch" in said
    rows = json.loads((tmp_path / "run" / "transfer.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(transfer.METHODS)
    assert len(rows[0]["accuracies"]) == 2
