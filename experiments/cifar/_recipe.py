"""What every training on CIFAR has: data, network, optimizers, schedule."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import field
from typing import Any

import jax

import ef_optax
from experiments import data, models
from experiments._checks import (
    check_given,
    check_least,
    check_not_negative,
    check_share,
    check_some,
)
from experiments._registry import StudyError
from experiments._results import count_text
from experiments._workers import worker_devices
from experiments.cifar._algorithms import ALGORITHMS, algorithm
from experiments.cifar._steps import Steps
from experiments.cifar._task import Task
from experiments.cifar._training import Plan, Protocol

# The batch size of which learning rates are given; others scale in proportion.
REFERENCE_BATCH = 128


@dataclasses.dataclass(frozen=True)
class Recipe(Task):
    """Training of a network for images."""

    model: str = "resnet18"
    epochs: int = 200
    weight_decay: float = field(default=5e-4, metadata={"help": "of all parameters"})
    densities: bool = field(default=True, metadata={
        "help": "measure the densities of g and of γg + e at every step"})
    protocol: Protocol = field(default="clean", metadata={
        "help": "clean carries all state through the drops of the learning rate and "
                "reports the last epoch; original does as the code of 2019 did"})
    evaluate_every: int = field(default=1, metadata={
        "help": "epochs between evaluations on the test part"})
    checkpoint_every: int = field(default=1, metadata={
        "help": "epochs between checkpoints; 0: none", "place": True})
    workers: int = field(default=1, metadata={
        "help": "each on a device of its own, with its part of each batch"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        super().__post_init__()
        check_least(self, 1, "evaluate_every", "workers")
        check_not_negative(self, "checkpoint_every")
        if self.protocol == "original" and self.evaluate_every != 1:
            raise ValueError(
                "the original protocol looks for the best epoch: evaluate_every must "
                f"be 1; got {self.evaluate_every}."
            )

    def plan(self, batch_size: int, learning_rate: float, seed: int) -> Plan:
        """Returns how to train once; the rate is that of `REFERENCE_BATCH`."""
        check_share(batch_size, self.workers)
        return Plan(
            self.epochs, tuple(round(drop * self.epochs) for drop in self.drops),
            self.drop_factor, batch_size,
            learning_rate * batch_size / REFERENCE_BATCH, seed, self.protocol,
            self.evaluate_every, self.checkpoint_every,
        )

    def load(self) -> data.Images:
        """Returns the images that are used."""
        if self.dataset == "synthetic":
            return data.synthetic_images(self.train_images or 512,
                                         self.test_images or 128)
        images = data.load_cifar(self.dataset, self.data_dir)
        first = slice(self.train_images or None), slice(self.test_images or None)
        for part, count in (("train", self.train_images), ("test", self.test_images)):
            there = len(getattr(images, f"y_{part}"))
            if count > there:
                raise StudyError(
                    f"{part}_images must be at most {there}, all that {self.dataset} "
                    f"has; got {count}."
                )
        return dataclasses.replace(
            images,
            x_train=images.x_train[first[0]], y_train=images.y_train[first[0]],
            x_test=images.x_test[first[1]], y_test=images.y_test[first[1]],
        )

    def steps(self, name: str, classes: int) -> Steps:
        """Returns the compiled functions of one algorithm."""
        mesh = None
        if self.workers > 1:
            mesh = ef_optax.worker_mesh(
                devices=worker_devices(self.workers)
            )
        return Steps(
            models.build(self.model, classes), algorithm(name, self.weight_decay),
            self.weight_decay, self.augmented, self.densities, mesh,
        )

    @property
    def text(self) -> str:
        """Describes the training in a sentence or two."""
        drops = " and ".join(str(round(drop * self.epochs)) for drop in self.drops)
        return (
            f"{self.data_text}, {self.epochs} epochs"
            + (f", learning rate divided by {self.drop_factor:g} after {drops}"
               if drops else ", constant learning rate")
            + f", weight decay {self.weight_decay:g}, {self.augmented_text}, "
            f"{self.protocol} protocol, {count_text(self.workers, 'worker')}."
        )


def on_device(images: data.Images) -> tuple[Any, Any]:
    """Returns the training and the test part as arrays of the device."""
    put = functools.partial(jax.tree.map, jax.numpy.asarray)
    return put((images.x_train, images.y_train)), put((images.x_test, images.y_test))


def hold_out(images: data.Images, count: int) -> data.Images:
    """Returns the training part alone, its last `count` images as the test part.

    Raises:
      StudyError: if nothing is left to train on.
    """
    there = len(images.y_train)
    if not 0 < count < there:
        raise StudyError(
            f"validation must be from 1 to {there - 1} of the {there} training images; "
            f"got {count}."
        )
    return dataclasses.replace(
        images,
        x_train=images.x_train[:-count], y_train=images.y_train[:-count],
        x_test=images.x_train[-count:], y_test=images.y_train[-count:],
    )


def check_algorithms(names: tuple[str, ...], rates: Mapping[str, float]) -> None:
    """Refuses unknown algorithms, and those without a learning rate.

    Raises:
      ValueError: if there are any.
    """
    check_some("algorithms", names, ALGORITHMS)
    check_some("learning_rates", [*rates, *names], ALGORITHMS)
    check_given("learning_rates", rates, names)

