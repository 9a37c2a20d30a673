"""Transfer: an encoder that was trained without labels, put to classifying with few of them (lecture 001).

Three networks are compared, each a linear layer on the encoder's features, on the same labelled images:

- *frozen*: the pretrained encoder as it is; the linear layer alone is fitted (a linear probe: logistic regression).
- *fine-tuned*: encoder and layer are trained together, from the pretrained weights.
- *from scratch*: the same class and configuration with fresh weights, and from there on the same procedure to the letter.

The features are what the encoder's last linear layer is given, as is usual when a network gets a new task: a bottleneck loses what
classes are told by. Where the encoder does not end in a linear layer they are the code itself.

The two that are trained each choose their recipe from the same eight, by cross-validation on the labelled images of the first seed: a
learning rate, and whether the new layer starts at random or as the probe on standardised features (LP-FT: Kumar et al. 2022,
"Fine-Tuning Can Distort Pretrained Features and Underperform Out-of-Distribution", section 3.4). The recipe with the lowest
cross-entropy of the left-out images is chosen: of so few images, how many are right says much less. The test images are used once, at
the end.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limner import capabilities
from limner.capabilities import Encodes
from limner.data import open_data
from limner.data.dataset import Dataset
from limner.data.order import held_out_order
from limner.errors import UserError
from limner.model import Model
from limner.noise import mix
from limner.training.device import has_bfloat16, pick
from limner.training.folder import RunFolder

LEARNING_RATES, STARTS = (3e-5, 1e-4, 3e-4, 1e-3), ("probe", "random")
"""What cross-validation chooses from, for the fine-tuned and the fresh encoder alike."""
FOLDS = 3
STEPS, PASSES, BATCH = 150, 10, 32
"""Of training encoder and layer together: so many steps, or passes over the labelled images if those are more."""
AT_ONCE = 500
UNLABELLED = 2000
"""Training images whose codes' mean and deviation standardise the code."""
METHODS = ("frozen", "fine-tuned", "from scratch")

Say = Callable[[str], None]


class CodeClassifier(nn.Module):
    """logits = W s(f(x)) + b: a linear layer on what the encoder of `model` makes of x. Gradients reach the encoder.

    Args:
        model: anything that encodes.
        images: those whose features' mean and deviation standardise the features.
        classes: how many logits.
        hidden: whether f(x) is what the encoder's last linear layer is given; else, and where it has none, the code.
        standardise: whether s takes mean and deviation out; else it does nothing.

    Raises:
        UserError: the model does not encode.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Model, images: Tensor, classes: int, *, hidden: bool = False, standardise: bool = True):
        super().__init__()
        if not isinstance(model, Encodes):
            raise UserError("transfer needs a model that encodes; this one can: " + ", ".join(capabilities.of(model)))
        self.model = model
        self._before: list[Tensor] = []
        if hidden and (last := last_linear(model, images[:2])) is not None:
            last.register_forward_pre_hook(lambda module, given: self._before.append(given[0]))
        code = self.codes(images)
        self.register_buffer("mean", code.mean(0) if standardise else torch.zeros_like(code[0]))
        self.register_buffer("deviation", code.std(0).clamp(min=1e-6) if standardise else torch.ones_like(code[0]))
        self.layer = nn.utils.skip_init(nn.Linear, code.shape[1], classes, device=code.device)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> s(f(x)), (B, D)."""
        return (self.raw(x) - self.mean) / self.deviation

    def raw(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> f(x), (B, D)."""
        self._before.clear()
        code = self.model.encode(x)  # type: ignore[operator]
        return (self._before.pop() if self._before else code).flatten(1).float()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return self.layer(self.features(x))

    @torch.no_grad()
    def codes(self, images: Tensor) -> Tensor:
        """f(x) of many images, (N, D)."""
        return torch.cat([self.raw(x) for x in images.split(AT_ONCE)])

    @torch.no_grad()
    def accuracy(self, data: Dataset, rows: np.ndarray) -> float:
        """Share of the images in these rows of the data that are classified as they are labelled, in [0, 1]."""
        logits, label = self._judged(data, rows)
        return float((logits.argmax(1) == label).double().mean())

    @torch.no_grad()
    def cross_entropy(self, data: Dataset, rows: np.ndarray) -> float:
        """-log p(label | image) in nats, mean over the images in these rows of the data."""
        return float(F.cross_entropy(*self._judged(data, rows)))

    def _judged(self, data: Dataset, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        self.eval()
        logits, labels = [], []
        for part in np.array_split(rows, -(-len(rows) // AT_ONCE)):
            batch = data.batch(part, self.mean.device)
            logits.append(self(batch["image"]))
            labels.append(batch["label"])
        return torch.cat(logits), torch.cat(labels)


@torch.no_grad()
def last_linear(model: Model, images: Tensor) -> nn.Linear | None:
    """The linear layer whose output the code is (or begins: a mean before a deviation); None where no such layer is last."""
    ran: list[tuple[nn.Linear, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, given, output: ran.append((module, output)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    code = model.encode(images).flatten(1)  # type: ignore[operator]
    for hook in hooks:
        hook.remove()
    if not ran:
        return None
    layer, output = ran[-1]
    output = output.flatten(1)[:, : code.shape[1]]
    return layer if output.shape == code.shape and torch.equal(output.to(code), code) else None


@dataclass(frozen=True)
class Row:
    """One method's accuracies at one number of labels."""

    labels: int
    method: str
    accuracies: tuple[float, ...]
    """On the test images, one for each seed; in [0, 1]."""
    recipe: tuple[str, float] | None
    """How the layer starts and the learning rate, as cross-validation chose; None where there is nothing to choose."""

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds, of one run; 0 for a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


@dataclass(frozen=True)
class Result:
    """What transfer is worth."""

    rows: list[Row]
    protocol: str

    def row(self, method: str, labels: int) -> Row:
        """The row of this method and number of labels."""
        return next(row for row in self.rows if row.method == method and row.labels == labels)

    def lines(self) -> list[str]:
        """The table in words and numbers, as Markdown."""
        head = ["labels", "network", "test accuracy, %", "seeds' deviation", "layer starts as, learning rate"]
        lines = ["| " + " | ".join(head) + " |", "|---|---|---|---|---|"]
        for row in self.rows:
            rate = "" if row.recipe is None else f"{row.recipe[0]}, {row.recipe[1]:g}"
            lines.append(f"| {row.labels} | {row.method} | {100 * row.mean:.2f} | {100 * row.spread:.2f} | {rate} |")
        for count in dict.fromkeys(row.labels for row in self.rows):
            gains = np.subtract(self.row("fine-tuned", count).accuracies, self.row("from scratch", count).accuracies)
            error = f" ± {100 * gains.std(ddof=1) / len(gains) ** 0.5:.2f}" if len(gains) > 1 else ""
            lines += [
                "",
                f"At {count} labels fine-tuned is {100 * gains.mean():+.2f}{error} points from scratch (paired by seed).",
            ]
        return [*lines, "", self.protocol]

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


def transfer(
    run: str | Path,
    *,
    labels: Sequence[int] = (100,),
    seeds: int = 5,
    n: int | None = None,
    device: str = "auto",
    say: Say = lambda text: None,
) -> Result:
    """`compare` for the model and the data of a run folder.

    Raises:
        UserError: as `compare`, or there is no run.
    """
    folder = RunFolder(run)
    model = folder.model(pick(device))
    config = dataclasses.replace(folder.data_config, degrade=())
    train, test = open_data(config), open_data(config, split="test")
    return compare(model, train, test, labels=labels, seeds=seeds, n=n, say=say)


def compare(
    model: Model,
    train: Dataset,
    test: Dataset,
    *,
    labels: Sequence[int] = (100,),
    seeds: int = 5,
    n: int | None = None,
    say: Say = lambda text: None,
) -> Result:
    """Compare the frozen, the fine-tuned and the fresh encoder of `model` on a few labelled images.

    Args:
        model: anything that `Encodes`, with an encoder through which gradients flow.
        train: labelled images to draw from, in the form that the model was trained on.
        test: labelled images to be measured on.
        labels: how many labelled images; one part of the table for each.
        seeds: repetitions, each with other labelled images, fresh weights and order.
        n: at most so many test images, chosen once for all.
        say: told what is being done.

    Raises:
        UserError: the model does not encode, or not with gradients; the data have no labels, or too few.
    """
    if train.labels is None or test.labels is None:
        raise UserError(f"transfer needs labelled data; '{train.name}' has no labels")
    device, classes = model.device, train.classes
    unlabelled = train.batch(held_out_order(len(train))[:UNLABELLED], device)["image"]
    tested = held_out_order(len(test))[:n]

    def trained(method: str, rows: np.ndarray, seed: int, recipe: tuple[str, float] | None) -> CodeClassifier:
        begin = fresh(model, mix(seed, 1)) if method == "from scratch" else copy_of(model)
        probe = recipe is None or recipe[0] == "probe"
        classifier = CodeClassifier(begin, unlabelled, classes, hidden=True, standardise=probe)
        batch = train.batch(rows, device)
        if probe:
            fit_layer(classifier, batch["image"], batch["label"])
        else:
            reset_layer(classifier, mix(seed, 3))
        if recipe is not None:
            fine_tune(classifier, batch["image"], batch["label"], lr=recipe[1], seed=mix(seed, 2))
        return classifier

    def validated(method: str, rows: np.ndarray, recipe: tuple[str, float]) -> float:
        # Folds are balanced as the draw is: the k-th labelled image of each class is in fold k mod FOLDS.
        of_class = train.labels[rows]  # type: ignore[index]
        fold = np.array([(of_class[:i] == c).sum() for i, c in enumerate(of_class)]) % FOLDS
        parts = ((trained(method, rows[fold != k], k, recipe), rows[fold == k]) for k in range(fold.max() + 1))
        return float(np.mean([classifier.cross_entropy(train, left_out) for classifier, left_out in parts]))

    encoder_weights(CodeClassifier(model, unlabelled, classes), unlabelled[:2])  # refuses before any work
    table = []
    for count in labels:
        draws = [balanced(train.labels, count, seed) for seed in range(seeds)]
        for method in METHODS:
            recipe = None
            if method != "frozen":
                by_recipe = {r: validated(method, draws[0], r) for r in itertools.product(STARTS, LEARNING_RATES)}
                recipe = min(by_recipe, key=by_recipe.__getitem__)
            accuracies = []
            for seed, rows in enumerate(draws):
                accuracies.append(trained(method, rows, seed, recipe).accuracy(test, tested))
            table.append(Row(count, method, tuple(accuracies), recipe))
            say(f"{count} labels, {method}: {100 * table[-1].mean:.2f} %")
    protocol = (
        f"{len(tested)} test images of {test.name}; labelled training images balanced over {classes} classes, {seeds} seeds; "
        f"recipe by {FOLDS}-fold cross-validation (cross-entropy) on the first seed's labelled images"
    )
    return Result(table, protocol)


@torch.enable_grad()
def fit_layer(classifier: CodeClassifier, images: Tensor, labels: Tensor) -> None:
    """Fit the linear layer alone, the encoder as it is: logistic regression with the prior W ~ N(0, I), by L-BFGS from zero."""
    classifier.eval()
    with torch.no_grad():
        code = torch.cat([classifier.features(x) for x in images.split(AT_ONCE)])
    layer = classifier.layer
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    solver = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(layer(code), labels) + layer.weight.square().sum() / (2 * len(code))
        value.backward()
        return value

    solver.step(loss)  # type: ignore[arg-type]


@torch.enable_grad()
def fine_tune(classifier: CodeClassifier, images: Tensor, labels: Tensor, *, lr: float, seed: int = 0) -> None:
    """Train encoder and layer together by Adam on cross-entropy, the learning rate falling to zero along a half cosine.
    Repeatable for a seed.

    Raises:
        UserError: no gradient reaches a weight of the encoder.
    """
    classifier.train()
    weights = [*encoder_weights(classifier, images[:2]), *classifier.layer.parameters()]
    optimizer = torch.optim.Adam(weights, lr=lr)
    steps = max(STEPS, PASSES * len(images) // BATCH)
    generator, device = torch.Generator().manual_seed(seed), images.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for step in range(steps):
            rows = torch.randperm(len(images), generator=generator)[:BATCH].to(device)
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            with torch.autocast(
                device.type, torch.bfloat16, enabled=classifier.model.autocast and has_bfloat16(device)
            ):
                logits = classifier(images[rows])
            F.cross_entropy(logits.float(), labels[rows]).backward()
            optimizer.step()
    classifier.eval()


def encoder_weights(classifier: CodeClassifier, images: Tensor) -> list[nn.Parameter]:
    """The weights of the model that its code depends on; those of a decoder are not among them.

    Raises:
        UserError: there are none: `encode` has no weights, or passes no gradients.
    """
    parameters = [p for p in classifier.model.parameters() if p.requires_grad]
    with torch.enable_grad():
        code = classifier.features(images)
        if code.requires_grad and parameters:
            gradients = torch.autograd.grad(code.sum(), parameters, allow_unused=True)
            reached = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
            if reached:
                return reached
    name = type(classifier.model).__name__
    raise UserError(f"the encoder of {name} has no weights that gradients reach: it cannot be fine-tuned")


def reset_layer(classifier: CodeClassifier, seed: int) -> None:
    """Give the linear layer random weights, those of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier.layer.reset_parameters()


def fresh(model: Model, seed: int) -> Model:
    """A model of the same class and configuration with new weights, those of `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(model)(model.config).to(model.device)


def copy_of(model: Model) -> Model:
    """The same model with weights of its own."""
    twin = fresh(model, 0)
    twin.load_state_dict(model.state_dict())
    return twin


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of `count` labelled images, drawn at random with equally many of each class (to within one).

    Raises:
        UserError: a class has too few images.
    """
    rng = np.random.default_rng([seed, count])
    classes = np.unique(labels)
    if count < len(classes):
        raise UserError(f"--labels {count}: give at least one for each of the {len(classes)} classes")
    share = np.full(len(classes), count // len(classes))
    share[rng.permutation(len(classes))[: count % len(classes)]] += 1
    rows = []
    for c, n in zip(classes, share, strict=True):
        of_class = np.flatnonzero(labels == c)
        if len(of_class) < n:
            raise UserError(f"--labels {count}: class {c} has {len(of_class)} training images, {n} are needed")
        rows.append(rng.choice(of_class, n, replace=False))
    return np.sort(np.concatenate(rows))
