"""Trainings that stop before their epochs to measure gradient and noise."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import models
from experiments._results import Results
from experiments.cifar._algorithms import algorithm
from experiments.cifar._full_pass import FullPass, densities, parameter_name
from experiments.cifar._images import augment, normalize
from experiments.cifar._noise_claims import Series
from experiments.cifar._recipe import on_device
from experiments.cifar._shapes import skewness, unimodality_p
from experiments.cifar._steps import State, Steps
from experiments.cifar._training import forget, train


class Job(NamedTuple):
    """One training."""

    kind: str
    algorithm: str
    seed: int


class Lab:
    """Data and compiled functions, and what was measured so far."""

    def __init__(self, config: Any, results: Results):
        self.config, self._results = config, results
        self._recipe = config.recipe()
        # A training that goes on from a checkpoint measures some epochs again: the
        # last line counts.
        self.lines: dict[tuple[str, str, int, int], dict[str, Any]] = {}
        for record in results.records:
            self._keep(record)
        self._steps: dict[str, Steps] = {}

    def train(self, job: Job, tick: Callable[[], Any]) -> dict[str, Any]:
        """Trains once, measuring before epochs; returns the values of its line."""
        config = self.config
        if not self._steps:
            self._prepare()
        # The plan of the recipe would scale the rate with the batch.
        plan = self._recipe.plan(config.batch_size, 1.0, job.seed)._replace(
            learning_rate=config.learning_rates[job.algorithm]
        )

        def before(epoch: int, state: State) -> None:
            drawn = epoch == config.histogram_epoch and job.seed == config.seeds[0]
            if drawn or epoch % config.measure_every == 0:
                self._measure(job, epoch, state, drawn)

        trained = train(
            self._steps[job.algorithm], plan, self._train, self._test,
            self._folder(job), tick, before,
        )
        names = ("train_loss", "train_accuracy", "test_accuracy", "seconds")
        return {name: trained.column(name) for name in names}

    def forget(self, job: Job) -> None:
        """Removes the checkpoints of a training whose line is written."""
        forget(self._folder(job))

    def _folder(self, job: Job) -> pathlib.Path:
        return self._results.path / "checkpoints" / f"{job.algorithm}_{job.seed}"

    def _prepare(self) -> None:
        config = self.config
        images = self._recipe.load()
        self._train, self._test = on_device(images)
        network = models.build(config.model, images.classes)
        self._steps = {
            name: Steps(network, algorithm(name, config.weight_decays[name]),
                        config.weight_decays[name], config.augmented, densities=False)
            for name in config.algorithms
        }
        shapes = jax.eval_shape(self._steps[config.algorithms[0]].start, 0).params
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        rng = np.random.default_rng(config.parameter_seed)
        places = rng.choice(count, config.parameters, replace=False)
        self._names = [parameter_name(shapes, int(place)) for place in places]

        def prepare(key: Any, images: Any) -> Any:
            x = normalize(images)
            return augment(key, x) if config.augmented else x

        self._pass = FullPass(network, prepare, places)

    def _measure(self, job: Job, epoch: int, state: State, drawn: bool) -> None:
        """Writes a line on one fixed point, with its noise if that is to be drawn."""
        welford, kept = self._run(job, epoch, 0, state)
        values: dict[str, Any] = densities(welford).plain()
        if drawn:
            several = [kept]
            while sum(map(len, several)) < self.config.samples:
                several.append(self._run(job, epoch, len(several), state)[1])
            noise = np.concatenate(several).T.astype(np.float64)
            noise -= noise.mean(axis=1, keepdims=True)
            values |= {
                "parameters": self._names,
                "skewness": [skewness(one) for one in noise],
                "unimodality_p": [unimodality_p(one) for one in noise],
                # Only what the figure shows, and not in more digits.
                "noise_samples": [[float(f"{x:.4g}") for x in one]
                                  for one in noise[:3]],
            }
        line = job._asdict() | {"kind": "epoch", "epoch": epoch} | values
        self._results.metric(**line)
        self._keep(line)

    def _run(self, job: Job, epoch: int, number: int, state: State) -> Any:
        """Returns what a pass finds; its batches and images are of its number."""
        images, labels = self._train
        size = self.config.batch_size
        rng = np.random.default_rng([job.seed, epoch, 1 + number])
        order = rng.permutation(len(labels))[: len(labels) // size * size]
        key = jax.random.fold_in(jax.random.key(job.seed), epoch)
        return self._pass(
            state.params, state.batch_stats, images, labels,
            order.astype(np.int32).reshape(-1, size), jax.random.fold_in(key, number),
        )

    def _keep(self, line: dict[str, Any]) -> None:
        if line["kind"] == "epoch":
            key = line["kind"], line["algorithm"], line["seed"], line["epoch"]
            self.lines[key] = line

    def of(self, job: Job) -> list[dict[str, Any]]:
        """Returns the lines of a training's epochs, in their order."""
        return sorted(
            (line for line in self.lines.values()
             if (line["algorithm"], line["seed"]) == job[1:]),
            key=lambda line: line["epoch"],
        )

    def series(self, job: Job) -> Series:
        """Returns the densities of a training."""
        lines = self.of(job)
        gradient, noise = (
            np.array([line[name] for line in lines], float)
            for name in ("gradient", "noise")
        )
        epochs = np.array([line["epoch"] for line in lines])
        return Series(job.algorithm, job.seed, epochs, gradient, noise)
