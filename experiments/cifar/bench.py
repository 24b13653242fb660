"""What compression costs a training step: the step against its parts.

A step with a compressing optimizer should take what the same step with `optax.sgd` and
the compressing update alone take together; all are timed in turn, in one run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import data, models
from experiments._checks import check_least
from experiments._results import Results, progress, table
from experiments.cifar._algorithms import ALGORITHMS, algorithm
from experiments.cifar._recipe import check_algorithms, on_device
from experiments.cifar._steps import Steps


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the training step of a network for images, and its parts."""

    model: str = field(default="resnet20", metadata={
        "help": f"one of {', '.join(models.MODELS)}"})
    batch_size: int = field(default=128, metadata={"help": "images a step"})
    algorithms: tuple[str, ...] = field(
        default=("scaled_sign", "signum", "ef_sign"),
        metadata={"help": f"some of {', '.join(ALGORITHMS)}"},
    )
    weight_decay: float = field(default=5e-4, metadata={"help": "of all parameters"})
    rounds: int = field(default=10, metadata={"help": "how often all run in turn"})
    results: str = field(default="results", metadata={"help": "where files go"})

    def __post_init__(self) -> None:
        """Refuses what cannot run."""
        models.build(self.model, 10)
        check_algorithms(self.algorithms, dict.fromkeys(self.algorithms, 1.0))
        check_least(self, 1, "rounds", "batch_size")


def run(config: Config) -> dict[str, float]:
    """Times all; returns for each algorithm the step's time over that of its parts."""
    images = on_device(data.synthetic_images(2 * config.batch_size, 1))[0]
    timed: dict[str, Callable[[], None]] = {"sgd": _stepper(config, None, images)}
    for name in config.algorithms:
        timed[name] = _stepper(config, name, images)
        timed[f"{name} update"] = _updater(config, name)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    with progress(config.rounds + 1, "round") as bar:
        for number in range(config.rounds + 1):
            for name, once in timed.items():
                started = time.perf_counter()
                once()
                if number:  # the first round compiles
                    seconds[name].append(time.perf_counter() - started)
            bar.update()
    best = {name: 1e3 * min(each) for name, each in seconds.items()}
    ratios = {
        name: best[name] / (best["sgd"] + best[f"{name} update"])
        for name in config.algorithms
    }
    results = Results(config.results, "bench_cifar", config, replace=True)
    for name, each in seconds.items():
        results.metric(
            timed=name, milliseconds=best[name],
            median_milliseconds=1e3 * float(np.median(each)),
        )
    rows = [
        [ALGORITHMS[name].label, f"{best[name]:.1f}", f"{best['sgd']:.1f}",
         f"{best[f'{name} update']:.2f}", f"{ratio:.3f}"]
        for name, ratio in ratios.items()
    ]
    header = ["algorithm", "step ms", "step with optax.sgd ms", "update alone ms",
              "step / both"]
    results.finish(
        f"{config.model}, batches of {config.batch_size}, best of {config.rounds} "
        f"rounds:\n\n{table(header, rows)}"
    )
    return ratios


def _stepper(config: Config, name: str | None, images: Any) -> Callable[[], None]:
    """Returns a function that takes one training step; `optax.sgd`'s for no name."""

    def sgd(learning_rate: Any, axis_name: Any) -> optax.GradientTransformation:
        return optax.sgd(learning_rate)

    make = sgd if name is None else algorithm(name, config.weight_decay)
    network = models.build(config.model, 10)
    steps = Steps(network, make, config.weight_decay, True, False)
    held = [steps.start(0)]
    batch = np.arange(config.batch_size, dtype=np.int32)

    def once() -> None:
        held[0] = steps.train(held[0], *images, batch, np.float32(1e-3))
        jax.block_until_ready(held[0])

    return once


def _updater(config: Config, name: str) -> Callable[[], None]:
    """Returns a function that makes one update of given gradients, and applies it."""
    network = models.build(config.model, 10)
    params = network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    tx = algorithm(name, config.weight_decay)(1e-3, None)
    held = [(params, tx.init(params))]
    key = jax.random.key(1)
    grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def once() -> None:
        held[0] = compiled(*held[0], grads)
        jax.block_until_ready(held[0])

    return once
