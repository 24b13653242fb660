"""A full pass over the data at a fixed point: mean and deviation of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.flatten_util import ravel_pytree

import ef_optax


class Densities(NamedTuple):
    """What a pass says of the stochastic gradient.

    Attributes:
      gradient: φ of its mean, all parameters one vector.
      noise: φ of its standard deviations.
      layerwise: Lemma 8's ratio of the mean, each tensor with a scale of its own.
      gradient_norm: l2 norm of the mean.
      noise_norm: l2 norm of the standard deviations.
    """

    gradient: Any
    noise: Any
    layerwise: Any
    gradient_norm: Any
    noise_norm: Any

    def plain(self) -> dict[str, float]:
        """Returns them as numbers of Python, by name."""
        return {name: float(value) for name, value in self._asdict().items()}


class FullPass:
    """Welford's mean and variance of minibatch gradients, compiled once.

    Gradients are of the loss alone, without weight decay, and batch normalisation is
    by the statistics of the batch, as in training.

    Args:
      network: from inputs to logits, with or without ``batch_stats``.
      prepare: from a key and the inputs of a batch to what the network is given.
      places: of which coordinates to keep the value in every batch.
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Callable[[Any, Any], Any],
        places: Iterable[int] = (),
    ):
        self._network, self._prepare = network, prepare
        self._places = np.asarray(list(places), np.int32)
        self._add = jax.jit(self._one_batch, donate_argnums=0)

    def __call__(
        self, params: Any, batch_stats: Any, inputs: Any, labels: Any,
        batches: np.ndarray, key: Any,
    ) -> tuple[ef_optax.measures.WelfordState, np.ndarray]:
        """Returns the state of Welford's algorithm after all batches, and samples.

        Args:
          params: the fixed point.
          batch_stats: of its normalisations, None without any; they do not change.
          inputs: of the data, on the device.
          labels: the same.
          batches: places of each batch's examples [batches, batch_size].
          key: a JAX key, for `prepare`.

        Returns:
          The state, and the kept coordinates [batches, places].
        """
        welford, samples = ef_optax.measures.welford_init(params), []
        for number, batch in enumerate(batches):
            welford, kept = self._add(
                welford, params, batch_stats, inputs, labels, batch,
                jax.random.fold_in(key, number),
            )
            samples.append(kept)
        return welford, np.stack(jax.device_get(samples))

    def _one_batch(
        self, welford: Any, params: Any, batch_stats: Any, inputs: Any, labels: Any,
        batch: Any, key: Any,
    ) -> Any:
        x = self._prepare(key, inputs[batch])
        grads = jax.grad(self._loss)(params, batch_stats, x, labels[batch])
        kept = ravel_pytree(grads)[0][self._places]
        return ef_optax.measures.welford_update(welford, grads), kept

    def _loss(self, params: Any, batch_stats: Any, x: Any, y: Any) -> Any:
        if batch_stats is None:
            logits: Any = self._network.apply({"params": params}, x)
        else:
            logits, _ = self._network.apply(
                {"params": params, "batch_stats": batch_stats}, x, True,
                mutable=["batch_stats"],
            )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()


@jax.jit
def densities(welford: ef_optax.measures.WelfordState) -> Densities:
    """Returns the densities of a pass; NaN those of the noise after one batch."""
    mean, variance = ef_optax.measures.welford_finalize(welford)
    deviation = jax.tree.map(jnp.sqrt, variance)
    return Densities(
        ef_optax.density(mean), ef_optax.density(deviation),
        1 - ef_optax.contraction(ef_optax.scaled_sign(), mean),
        optax.tree.norm(mean), optax.tree.norm(deviation),
    )


def parameter_name(params: Any, place: int) -> str:
    """Returns of which tensor a coordinate of the raveled parameters is, and where."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if place < leaf.size:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return f"{name}[{place}]"
        place -= leaf.size
    raise IndexError(place)
