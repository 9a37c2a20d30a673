"""The one training loop, for every family.

    seed from (seed, rank, images seen) -> the batch those three name -> advance the model's generator of updates; for each update:
    backward into that optimizer's parameters only -> average over processes -> clip -> step -> then the moving average -> events

Because the state of a run is (weights, optimizers, average, images seen) and nothing else, a run that was killed goes on from its
last checkpoint as if nothing had happened, bit for bit.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from limner.data.dataset import Dataset
from limner.errors import UserError
from limner.model import Clock, Model, Update
from limner.noise import mix
from limner.training import checkpoint, device, schedule
from limner.training.average import Average
from limner.training.events import Events
from limner.training.folder import RunFolder
from limner.training.health import KEY, Health
from limner.training.probe import Probe, gradient_balance
from limner.training.ranks import Ranks
from limner.training.settings import TrainConfig
from limner.training.stopwatch import Budget, Stopwatch


class Trainer:
    """Trains one model on one data set into one run folder (or into none).

    Raises:
        UserError: the data lacks what the model needs, a loss or gradient is not finite, a checkpoint cannot be written.
    """

    def __init__(
        self,
        model: Model,
        data: Dataset,
        settings: TrainConfig,
        *,
        folder: RunFolder | None = None,
        events: Events | None = None,
        ranks: Ranks | None = None,
        on_save=None,
        on_grid=None,
    ):
        self.ranks = ranks or Ranks()
        self.device = device.pick(settings.device, self.ranks.local)
        device.make_reproducible(self.device)
        self.ranks.join(self.device)
        if settings.batch % (settings.micro_batches * self.ranks.world):
            raise UserError(
                f"--batch {settings.batch} cannot be split into {settings.micro_batches} micro-batches on {self.ranks.world} processes"
            )
        self.model, self.data, self.settings, self.folder = model.to(self.device), data, settings, folder
        self.events = events or Events([])
        self.on_save, self.on_grid = on_save or (lambda trainer: None), on_grid or (lambda trainer: None)
        self.ranks.share([self.model])
        self.optimizers = model.optimizers()
        self.average = Average(model, model.averaged if settings.ema_halflife else ())
        self.parameters = {
            name: [p for group in optimizer.param_groups for p in group["params"]]
            for name, optimizer in self.optimizers.items()
        }
        self.clock = Clock()
        self.watch = Stopwatch()
        self._grids = Budget(share=0.1)
        self.health = Health()
        self.probe = Probe(self.model, data, say=lambda text: self.events.message(text))
        self._names = {id(p): name for name, p in self.model.named_parameters()}
        self._weighed: set[str] = set()
        self.autocast = self._autocast()
        self._check_inputs()
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._begun = 0.0
        self._reported = 0.0, 0
        self._stop: signal.Signals | None = None

    # One step

    def step(self) -> None:
        """One step: a batch, all the model's updates on it, the moving average."""
        settings, clock = self.settings, self.clock
        torch.manual_seed(mix(settings.seed, self.ranks.rank, clock.images))
        started = time.perf_counter()
        batch = self.batch()
        self._sums["wait"] += time.perf_counter() - started
        self.model.train()
        for updates in self.updates(batch):
            self.apply(updates)
        clock.step += 1
        clock.images += settings.batch
        self.average.update(clock.images, settings.batch, settings.ema_halflife, settings.ema_rampup)

    def batch(self) -> dict[str, Tensor]:
        """This process's part of the batch that (seed, images seen) name."""
        s, ranks = self.settings, self.ranks
        return self.data.draw(
            s.seed, self.clock.images, s.batch, rank=ranks.rank, world=ranks.world, device=self.device
        )

    def updates(self, batch: dict[str, Tensor]) -> Iterator[list[Update]]:
        """Advance the generators of all micro-batches in lock-step. Gradients are there when a list of updates is given out."""
        parts = self.settings.micro_batches
        chunks = [
            dict(zip(batch, values, strict=True))
            for values in zip(*(v.chunk(parts) for v in batch.values()), strict=True)
        ]
        generators = [self.model.train_step(chunk, self.clock) for chunk in chunks]
        while True:
            updates: list[Update] = []
            for generator in generators:
                with self.autocast():
                    update = next(generator, None)
                if update is None:
                    continue
                if not updates:
                    self.optimizers[update.optimizer].zero_grad(set_to_none=True)
                self.check_loss(update)
                (update.loss / parts).backward(inputs=self.parameters[update.optimizer])
                updates.append(update)
            if not updates:
                return
            if len(updates) != parts or len({u.optimizer for u in updates}) != 1:
                raise RuntimeError("train_step yields other updates for one micro-batch than for another")
            yield updates

    def apply(self, updates: list[Update]) -> None:
        """Average the gradients over the processes, clip them, and let the optimizer step."""
        name, settings = updates[0].optimizer, self.settings
        optimizer, parameters = self.optimizers[name], self.parameters[name]
        if self.ranks.world > 1:
            for p in parameters:
                if p.grad is None and p.requires_grad:
                    p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        loss = self.ranks.mean(gradients, torch.stack([u.loss.detach() for u in updates]).mean())
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm + loss)):
            self.diverged(name, f"its gradient norm is {float(norm)} and its loss {float(loss)}")
        if name not in self._weighed and self.ranks.first:
            self.weigh(name)
        if settings.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, settings.clip, norm)
        schedule.set_learning_rate(optimizer, schedule.factor(self.clock.images, settings))
        optimizer.step()
        self.record(f"loss/{name}", loss)
        self.record(f"norm/{name}", norm)
        for key in updates[0].log:
            self.record(f"{name}/{key}", torch.stack([u.log[key].detach().float().mean() for u in updates]).mean())

    def check_loss(self, update: Update) -> None:
        """Stop with the parts of the loss named if it is not finite. With several processes they agree in `apply` instead."""
        if self.ranks.world == 1 and not bool(torch.isfinite(update.loss)):
            parts = ", ".join(f"{k} = {float(v.detach().float().mean()):.4g}" for k, v in update.log.items())
            self.diverged(
                update.optimizer, f"its loss is {float(update.loss.detach())}" + (f" (parts: {parts})" if parts else "")
            )

    def diverged(self, optimizer: str, what: str) -> None:
        """Raise the error that says where training broke, and where it can go on from."""
        saved = checkpoint.files(self.folder.path / "state") if self.folder else []
        last = (
            f"the checkpoint after {int(saved[0].stem):,} images is intact"
            if saved
            else "no checkpoint had been saved yet"
        )
        raise UserError(
            f"training stopped at step {self.clock.step} ({self.clock.images:,} images): update '{optimizer}' diverged, {what}; "
            f"{last}; try a lower --model.lr, a longer --warmup or --clip 1"
        )

    def record(self, name: str, value: Tensor) -> None:
        """Add to the mean that the next line of statistics will give."""
        self._sums[name] += float(value)
        self._counts[name] += 1

    def weigh(self, optimizer: str) -> None:
        """Compare the gradients of an optimizer's layers, for the next line of statistics."""
        self._weighed.add(optimizer)
        gradients = {self._names.get(id(p), ""): p.grad for p in self.parameters[optimizer] if p.grad is not None}
        balance, least = gradient_balance(gradients)
        if least:
            self._sums[f"gradient/{optimizer}"], self._counts[f"gradient/{optimizer}"] = balance, 1
            self.health.layers[optimizer] = least

    # The run

    def run(self) -> bool:
        """Train until all images are seen or a signal asks to stop. Returns whether the run is complete."""
        s, clock = self.settings, self.clock
        log_every, save_every, grid_every = (
            _multiple(s, n) for n in (max(s.images // 200, 1), s.save_every, s.grid_every)
        )
        with self._signals(), self.watch.running():
            while clock.images < s.images:
                self.step()
                stop = self.ranks.any(self._stop is not None, self.device)
                complete = clock.images >= s.images
                if complete or stop or clock.images % log_every == 0:
                    self.report()
                # Checkpoints and grids are not training: the clock of `seconds` stands still for them.
                if complete or stop or clock.images % save_every == 0:
                    with self.watch.paused():
                        self.save()
                if complete or (not stop and clock.images % grid_every == 0):
                    with self.watch.paused():
                        self.draw_grid(always=complete)
                if stop:
                    break
        if self._stop is not None and clock.images < s.images:
            self.events.message(f"stopped by {self._stop.name} and saved after {clock.images:,} of {s.images:,} images")
        return clock.images >= s.images

    def report(self) -> None:
        """Send the means since the last line to the events."""
        seconds, images = self.watch.seconds, self.clock.images
        elapsed = max(seconds - self._reported[0], 1e-9)
        record: dict[str, float] = {"images": images, "step": self.clock.step, "seconds": round(seconds, 3)}
        record["images_per_second"] = round((images - self._reported[1]) / elapsed, 2)
        record["wait"] = round(self._sums.pop("wait", 0.0) / elapsed, 4)
        record |= {name: total / self._counts[name] for name, total in self._sums.items()}
        self._reported = seconds, images
        self._sums.clear()
        self._counts.clear()
        self._weighed.clear()
        # Only the first process looks: the others meet it again at the next exchange, and nobody compares clocks.
        if self.ranks.first:
            record |= self.look()
            verdicts = self.health.look(record)
            self.events.scalars(record | ({KEY: [v.as_dict() for v in verdicts]} if verdicts else {}))
            self.events.verdicts(verdicts)

    def look(self) -> dict[str, float]:
        """What the probes that are due find. They are paid from the time of this session."""
        seconds, images = self.watch.seconds, self.clock.images
        total = seconds * self.settings.images / images
        due = self.probe.due(seconds - self._begun, total - self._begun, seconds / self.clock.step)
        if not due:
            return self.probe.measure(due)
        with self.watch.paused(), self.sampling():
            return self.probe.measure(due)

    def save(self) -> None:
        """Write the checkpoint and the weights to sample with."""
        self.ranks.share([self.model, self.average.copies], buffers_only=True)
        if self.folder is not None and self.ranks.first:
            checkpoint.save(self.folder.path / "state", self.clock.images, self.state_dict(), self.settings.keep)
            with self.sampling():
                self.on_save(self)
        self.ranks.wait()

    def draw_grid(self, *, always: bool = True) -> None:
        """Let the caller draw samples with the averaged weights, unless grids have taken too much of the time (and not `always`)."""
        # Every process comes here and waits, but only the first one's clock decides: clocks differ between processes.
        if self.folder is not None and self.ranks.first and (always or self._grids.allows(self.watch.seconds)):
            before = time.perf_counter()
            with self.sampling(), torch.no_grad():
                samples = self.on_grid(self)
            cost = time.perf_counter() - before
            self._grids.spent(cost, self.watch.seconds)
            if samples is not None:
                self.probe.take(samples, cost)
        self.ranks.wait()

    @contextlib.contextmanager
    def sampling(self) -> Iterator[Model]:
        """Inside, the model is as it will be saved: averaged weights, evaluation mode."""
        with self.average.applied():
            self.model.eval()
            try:
                yield self.model
            finally:
                self.model.train()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: tensors and plain values only."""
        return {
            "clock": {"step": self.clock.step, "images": self.clock.images},
            "seconds": self.watch.seconds,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it belongs to a model of another configuration.
        """
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            self.clock.step, self.clock.images = int(state["clock"]["step"]), int(state["clock"]["images"])
            self.watch = Stopwatch(float(state["seconds"]))
            self._begun = self.watch.seconds
            self._reported = self._begun, self.clock.images
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"the checkpoint does not fit the run's configuration: {str(error).splitlines()[0]}"
            ) from None

    # Set-up

    def _autocast(self):
        precision, kind = self.settings.precision, self.device.type
        wanted = precision == "bfloat16" or (
            precision == "auto" and self.model.autocast and device.has_bfloat16(self.device)
        )
        if not wanted:
            return contextlib.nullcontext
        return lambda: torch.autocast(kind, dtype=torch.bfloat16)

    def _check_inputs(self) -> None:
        batch = self.data.batch([0], "cpu")
        for key in self.model.inputs:
            if key not in batch:
                raise UserError(
                    f"the model needs '{key}' with each image, but data '{self.data.name}' gives {', '.join(batch)}"
                )
        image = batch.get("image")
        if image is not None and tuple(image.shape[1:]) != self.model.image_shape:
            raise UserError(
                f"the images of '{self.data.name}' are {'x'.join(map(str, image.shape[1:]))}, the model is for "
                f"{'x'.join(map(str, self.model.image_shape))} (channels x height x width); see --size, --channels, --model.size"
            )
        trainable = {id(p) for p in self.model.parameters() if p.requires_grad}
        held = {id(p) for parameters in self.parameters.values() for p in parameters}
        if trainable - held:
            lost = next(n for n, p in self.model.named_parameters() if p.requires_grad and id(p) not in held)
            raise RuntimeError(f"no optimizer of {type(self.model).__name__} holds the parameter '{lost}'")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: object) -> None:
            self._stop = signal.Signals(number)
            signal.signal(number, previous[number])  # a second signal ends the process at once

        previous: dict[int, Any] = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                previous[number] = signal.signal(number, ask)
        except ValueError:
            pass  # not in the main thread: signals stay with whoever has them
        try:
            yield
        finally:
            for asked, handler in previous.items():
                signal.signal(asked, handler)


def _multiple(settings: TrainConfig, every: int) -> int:
    """`every` (0: a tenth of the run) rounded up to whole steps."""
    every = every or max(settings.images // 10, 1)
    return -(-every // settings.batch) * settings.batch
