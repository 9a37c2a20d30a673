"""A VAE trained by limner beside the same VAE trained by pythae.

    pip install -c constraints.txt -e '.[bench]' && pip install --no-deps pythae
    python benchmarks/vae_pythae.py [--minutes 1.5] [--network mlp|conv] [--likelihood bernoulli|gaussian]

Both get the same encoder and decoder with the same first weights, the same likelihood (Bernoulli on grey levels in [0, 1], or
a Gaussian of unit variance on [-1, 1]), the same batches in the same order, Adam with the same learning rate, float32, one thread,
and the same training time. They are trained in turns, a few seconds each, and the order of turns is reversed every round, so that
what else the machine does hits all alike. Each is used as it ships: pythae's `BaseTrainer` over its `BaseDataset`, limner's
`Trainer`. The third, "limner, its own settings", adds what limner's preset has: bfloat16 autocast where the hardware has it,
averaged weights, clipping of gradients.

Images a second are medians over the turns, with quartiles; the ratio is the median of the ratios within a round. The ELBO is that
of the test images, in nats, computed by the same function for all, with one draw of z for each image and the same seed.
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
import statistics
import tempfile
import time


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=1.5, help="training time of each")
    parser.add_argument("--turn", type=int, default=100, help="steps in a turn")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--network", choices=("mlp", "conv"), default="mlp")
    parser.add_argument("--likelihood", choices=("bernoulli", "gaussian"), default="bernoulli")
    parser.add_argument("--data", default="fashion-mnist")
    return parser.parse_args()


class Limner:
    """limner's model under limner's loop."""

    def __init__(self, model, data, settings):
        from limner.training.loop import Trainer

        self.model, self.trainer, self.seconds = model, Trainer(model, data, settings), 0.0

    def turn(self, steps: int) -> float:
        """Images a second over so many steps."""
        start = time.perf_counter()
        for _ in range(steps):
            self.trainer.step()
        elapsed = time.perf_counter() - start
        self.seconds += elapsed
        return steps * self.trainer.settings.batch / elapsed

    @property
    def images(self) -> int:
        return self.trainer.clock.images

    def trained(self):
        with self.trainer.sampling():
            return copy.deepcopy(self.model).eval()


class Pythae:
    """The encoder and decoder of a limner VAE as pythae's VAE under pythae's trainer."""

    def __init__(self, model, data, batch: int, seed: int, lr: float):
        import torch
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn import BaseDecoder, BaseEncoder
        from pythae.trainers import BaseTrainer, BaseTrainerConfig
        from pythae.trainers.training_callbacks import TrainingCallback

        bernoulli = model.config.likelihood == "bernoulli"

        class Encoder(BaseEncoder):
            def __init__(self):
                super().__init__()
                self.net = model.encoder

            def forward(self, x):
                # The networks are given images in [-1, 1] by both; pythae's cross-entropy wants its targets in [0, 1].
                mean, log_sigma = self.net(2 * x - 1 if bernoulli else x).chunk(2, dim=1)
                return ModelOutput(embedding=mean, log_covariance=2 * log_sigma)

        class Decoder(BaseDecoder):
            def __init__(self):
                super().__init__()
                self.net = model.decoder

            def forward(self, z):
                output = self.net(z)
                return ModelOutput(reconstruction=torch.sigmoid(output) if bernoulli else output)

        loss = "bce" if bernoulli else "mse"
        config = VAEConfig(input_dim=model.image_shape, latent_dim=model.config.latent, reconstruction_loss=loss)
        images = data.batch(range(len(data)))["image"]
        dataset = BaseDataset((images + 1) / 2 if bernoulli else images, torch.zeros(len(images)))
        self.model, self.data, self.batch, self.seed = model, data, batch, seed
        self.images, self.seconds, self.folder = 0, 0.0, tempfile.TemporaryDirectory()
        settings = BaseTrainerConfig(
            output_dir=self.folder.name, per_device_train_batch_size=batch, learning_rate=lr, no_cuda=True
        )
        self.trainer = BaseTrainer(VAE(config, Encoder(), Decoder()), dataset, training_config=settings)
        self.trainer.prepare_training()
        self.trainer.callback_handler.callbacks = [TrainingCallback()]  # without its progress bar, which costs a little

    def turn(self, steps: int) -> float:
        """Images a second over so many steps: an "epoch" of pythae's over the images whose turn it is."""
        from pythae.data.datasets import collate_dataset_output
        from torch.utils.data import DataLoader

        from limner.data.order import batch_indices

        count = steps * self.batch
        rows = batch_indices(len(self.data), self.seed, self.images, count).tolist()
        loader = self.trainer.train_loader
        self.trainer.train_loader = DataLoader(
            loader.dataset, batch_size=self.batch, sampler=rows, collate_fn=collate_dataset_output
        )
        start = time.perf_counter()
        self.trainer.train_step(epoch=1)
        elapsed = time.perf_counter() - start
        self.images += count
        self.seconds += elapsed
        return count / elapsed

    def trained(self):
        return copy.deepcopy(self.model).eval()


def elbo(model, data) -> tuple[float, float]:
    """Mean and standard error of the test images' ELBO in nats, under the likelihood as trained."""
    import torch

    from limner.models.autoencoders.vae import kl_to_standard_normal

    values, generator = [], torch.Generator().manual_seed(0)
    with torch.no_grad():
        for start in range(0, len(data), 500):
            x = data.batch(range(start, min(start + 500, len(data))))["image"]
            mean, log_sigma = model.posterior(x)
            z = mean + torch.exp(log_sigma) * torch.randn(mean.shape, generator=generator)
            values.append(model.log_likelihood(x, model.decoder(z)) - kl_to_standard_normal(mean, log_sigma))
    every = torch.cat(values).double()
    return float(every.mean()), float(every.std() / len(every) ** 0.5)


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    import torch

    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    from limner.data import open_data
    from limner.models.autoencoders.vae import TRAIN, VAE, Config
    from limner.training.settings import TrainConfig

    train, test = open_data(options.data), open_data(options.data, split="test")
    config = Config(
        channels=train.channels,
        size=train.size,
        likelihood=options.likelihood,
        sigma=1.0 if options.likelihood == "gaussian" else 0.0,
        network=options.network,
        latent=32,
    )
    torch.manual_seed(0)
    first = VAE(config)
    plain = {"images": 10**9, "batch": options.batch, "device": "cpu", "seed": 0}
    trained = {
        "pythae": Pythae(copy.deepcopy(first), train, options.batch, 0, config.lr),
        "limner, same settings": Limner(
            copy.deepcopy(first), train, TrainConfig(**plain, ema_halflife=0, precision="float32")
        ),
        "limner, its own settings": Limner(
            copy.deepcopy(first), train, TrainConfig(**plain, clip=TRAIN["clip"], ema_halflife=TRAIN["ema_halflife"])
        ),
    }

    speeds: dict[str, list[float]] = {name: [] for name in trained}
    budget, names = 60 * options.minutes, list(trained)
    while waiting := [name for name in names if trained[name].seconds < budget]:
        for name in waiting:
            speeds[name].append(trained[name].turn(options.turn))
        names.reverse()

    parameters = sum(p.numel() for p in first.parameters())
    print(
        f"VAE ({options.network}, {parameters:,} parameters, {options.likelihood}), batch {options.batch} of {options.data}, one "
        f"thread, {options.minutes:g} minutes each, torch {torch.__version__}; median of turns of {options.turn} steps (quartiles)\n"
    )
    print("| trained by | images/s | ratio to pythae | images seen | test ELBO, nats |")
    print("|---|---|---|---|---|")
    for name, one in trained.items():
        low, middle, high = statistics.quantiles(speeds[name], n=4)
        ratio = statistics.median(a / b for a, b in zip(speeds[name], speeds["pythae"], strict=False))
        mean, error = elbo(one.trained(), test)
        print(
            f"| {name} | {middle:.0f} ({low:.0f}-{high:.0f}) | {ratio:.2f} | {one.images:,} | {mean:.2f} ± {error:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
