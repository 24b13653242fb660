"""What is compiled: one training step, and the evaluation."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import ef_optax
from experiments.cifar._images import augment, normalize
from experiments.training import Algorithm

AXIS = "workers"

# What `State.sums` adds up over the batches of an epoch.
SUMMED = ("train_loss", "train_accuracy", "density", "corrected_density")


class State(NamedTuple):
    """All that a training carries from step to step.

    Attributes:
      params: of the network.
      batch_stats: of its normalisations.
      optimizer: state of the optimizer, errors included.
      key: of the augmentation.
      step: int32, how many there were.
      sums: float32, over this epoch's batches, see `SUMMED`.
    """

    params: Any
    batch_stats: Any
    optimizer: Any
    key: Any
    step: Any
    sums: Any


class Steps:
    """The compiled functions of one network, algorithm and batch size.

    Args:
      network: from images to logits, with ``batch_stats``.
      algorithm: from a learning rate and an axis name to an optimizer.
      weight_decay: that the algorithm adds to gradients, for the densities alone.
      augmented: whether batches are cropped and mirrored.
      densities: whether to measure φ(g) and φ(γg + e); with one worker only.
      mesh: of the workers; None for one.
    """

    def __init__(
        self,
        network: nn.Module,
        algorithm: Algorithm,
        weight_decay: float,
        augmented: bool,
        densities: bool,
        mesh: Mesh | None = None,
    ):
        self._network, self._algorithm = network, algorithm
        self._weight_decay, self._augmented = weight_decay, augmented
        self._densities = densities and mesh is None
        self.mesh = mesh
        self.start = jax.jit(self._start)
        # The step donates its state; data stay where they are.
        self.train = jax.jit(self._train, donate_argnums=0)
        self._evaluate = jax.jit(self._measure)

    def evaluate(
        self, state: State, images: Any, labels: Any, batch: int = 500
    ) -> tuple[float, float]:
        """Returns mean loss and accuracy in percent, in inference mode."""
        total = np.zeros(2)
        for start in range(0, len(labels), batch):
            # The last batch is filled up with images of weight zero.
            places = np.arange(start, start + batch)
            weights = (places < len(labels)).astype(np.float32)
            places = np.minimum(places, len(labels) - 1)
            total += np.asarray(self._evaluate(
                state.params, state.batch_stats, images, labels, places, weights
            ))
        loss, correct = total / len(labels)
        return float(loss), 100 * float(correct)

    def _optimizer(self, learning_rate: Any) -> optax.GradientTransformation:
        if self.mesh is None:
            return self._algorithm(learning_rate, None)
        return ef_optax.over_workers(
            self._algorithm(learning_rate, AXIS), self.mesh, AXIS
        )

    def fresh(self, params: Any) -> Any:
        """Returns an optimizer's first state."""
        return self._optimizer(0.0).init(params)

    def _start(self, seed: Any) -> State:
        first, key = jax.random.split(jax.random.key(seed))
        variables = self._network.init(first, jnp.zeros((1, 32, 32, 3)))
        params = variables["params"]
        return State(
            params, variables["batch_stats"], self.fresh(params), key,
            jnp.zeros((), jnp.int32), jnp.zeros(len(SUMMED)),
        )

    def _train(
        self, state: State, images: Any, labels: Any, batch: Any, learning_rate: Any
    ) -> State:
        """Returns the state after a step on the images at the places in `batch`."""
        x, y = normalize(images[batch]), labels[batch]
        if self._augmented:
            x = augment(jax.random.fold_in(state.key, state.step), x)
        gradients = self._gradients if self.mesh is None else self._all_gradients
        loss, correct, batch_stats, grads = gradients(
            state.params, state.batch_stats, x, y
        )
        tx = self._optimizer(learning_rate)
        updates, optimizer = tx.update(grads, state.optimizer, state.params)
        densities = self._measure_densities(state, grads, learning_rate)
        return State(
            optax.apply_updates(state.params, updates), batch_stats, optimizer,
            state.key, state.step + 1,
            state.sums + jnp.stack([loss, 100 * correct, *densities]),
        )

    def _loss(self, params: Any, batch_stats: Any, x: Any, y: Any) -> Any:
        logits, changed = self._network.apply(
            {"params": params, "batch_stats": batch_stats}, x, True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        correct = (logits.argmax(-1) == y).mean()
        return losses.mean(), (correct, changed["batch_stats"])

    def _gradients(self, params: Any, batch_stats: Any, x: Any, y: Any) -> Any:
        both = jax.value_and_grad(self._loss, has_aux=True)
        (loss, (correct, batch_stats)), grads = both(params, batch_stats, x, y)
        return loss, correct, batch_stats, grads

    def _all_gradients(self, params: Any, batch_stats: Any, x: Any, y: Any) -> Any:
        """Returns each worker's gradient of its part of the batch.

        Every worker normalises by the statistics of its own part; the running ones are
        their mean.
        """

        @functools.partial(
            jax.shard_map, mesh=self.mesh, in_specs=(P(), P(), P(AXIS), P(AXIS)),
            out_specs=(P(), P(), P(), P(AXIS)),
        )
        def local(params: Any, batch_stats: Any, x: Any, y: Any) -> Any:
            both = ef_optax.local_value_and_grad(self._loss, AXIS, has_aux=True)
            (loss, (correct, changed)), grads = both(params, batch_stats, x, y)
            means = jax.lax.pmean((loss, correct, changed), AXIS)
            return *means, jax.tree.map(lambda g: g[None], grads)

        return local(params, batch_stats, x, y)

    def _measure_densities(
        self, state: State, grads: Any, learning_rate: Any
    ) -> tuple[Any, Any]:
        """Returns Lemma 8's layer-wise ratio of g and γg + e; NaN if not measured."""
        if not self._densities:
            return jnp.nan, jnp.nan
        compressor = ef_optax.scaled_sign()
        decayed = jax.tree.map(
            lambda g, p: g + self._weight_decay * p, grads, state.params
        )
        density = 1 - ef_optax.contraction(compressor, decayed)
        error = optax.tree.get(state.optimizer, "error", None)
        if error is None:
            return density, density
        corrected = jax.tree.map(
            lambda g, e: e - learning_rate * g, decayed, error
        )
        return density, 1 - ef_optax.contraction(compressor, corrected)

    def _measure(
        self, params: Any, batch_stats: Any, images: Any, labels: Any, places: Any,
        weights: Any,
    ) -> Any:
        x, y = normalize(images[places]), labels[places]
        logits: Any = self._network.apply(
            {"params": params, "batch_stats": batch_stats}, x, False
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        correct = logits.argmax(-1) == y
        return jnp.stack([(losses * weights).sum(), (correct * weights).sum()])
