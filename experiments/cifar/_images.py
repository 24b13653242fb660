"""Images on the device: normalised, and augmented where they are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Of CIFAR-10's training part, for each channel; the 2019 code has them for CIFAR-100
# as well.
MEAN = np.array([125.3, 123.0, 113.9], np.float32)
DEVIATION = np.array([63.0, 62.1, 66.7], np.float32)


def normalize(images: jax.Array) -> jax.Array:
    """Returns float32 images of about mean 0 and deviation 1 from bytes."""
    return (images.astype(jnp.float32) - MEAN) / DEVIATION


def augment(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Returns random crops of the zero-padded images, half of them mirrored.

    Args:
      key: a JAX key.
      images: [n, height, width, channels], already normalised, so that 0 is the mean.
      padding: pixels on each side.
    """
    n, height, width, _ = images.shape
    places, mirrors = jax.random.split(key)
    shifts = jax.random.randint(places, (2, n), 0, 2 * padding + 1)
    mirrored = jax.random.bernoulli(mirrors, shape=(n, 1))
    columns = jnp.arange(width)
    columns = jnp.where(mirrored, columns[::-1], columns) + shifts[1][:, None]
    rows = jnp.arange(height) + shifts[0][:, None]
    edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, edges)
    return padded[jnp.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
