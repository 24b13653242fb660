"""The data of Wilson et al., as Karimireddy et al. use it (appendix A.6).

Point i has the label y_i; its first coordinate is y_i, the next two are 1, and of five
coordinates that only it has the first is 1 if y_i = 1, and all five are if y_i = -1.
Whoever reads the first coordinate classifies new points; the others say nothing of
them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHARED, OWN = 3, 5


class Data(NamedTuple):
    """Labels, and which half of the points is for training.

    Attributes:
      labels: y, [n], 1 or -1.
      train: the points of the training half, [n / 2].
      test: those of the other half.
    """

    labels: Any
    train: Any
    test: Any


def draw(points: int, seed: int) -> Data:
    """Draws labels and halves."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([-1.0, 1.0], points)
    order = rng.permutation(points)
    return Data(labels, np.sort(order[: points // 2]), np.sort(order[points // 2 :]))


def dimension(points: int) -> int:
    """Returns d = 6 n, though the last n - 3 coordinates are 0 for all points."""
    return 6 * points


def predict(x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns A x for all points, without the matrix."""
    points = len(labels)
    own = x[SHARED : SHARED + OWN * points].reshape(points, OWN)
    sums = jnp.where(labels > 0, own[:, 0], own.sum(1))
    return labels * x[0] + x[1] + x[2] + sums


def matrix(labels: np.ndarray) -> np.ndarray:
    """Returns A, [n, 6 n], by the formula of appendix A.6."""
    points = len(labels)
    a = np.zeros((points, dimension(points)))
    a[:, 0] = labels
    a[:, 1:3] = 1
    for i, y in enumerate(labels):
        first = 3 + 5 * i  # the paper counts from 1: 4 + 5 (i - 1)
        a[i, first : first + 2 * int(1 - y) + 1] = 1
    return a


def losses(x: jax.Array, data: Data) -> tuple[jax.Array, jax.Array]:
    """Returns the mean squared errors on both halves."""
    squares = (predict(x, data.labels) - data.labels) ** 2
    return squares[data.train].mean(), squares[data.test].mean()


def gradient(x: jax.Array, data: Data) -> jax.Array:
    """Returns A^T (A x - y) / (n / 2) of the training half, as the reference code does.

    It is the gradient of half the training loss.
    """
    return jax.grad(lambda x: losses(x, data)[0] / 2)(x)


class Rows(NamedTuple):
    """The row space of the training half.

    Attributes:
      inverse: (A A^T)^-1.
      least: the solution of least norm, A^T (A A^T)^-1 y.
    """

    inverse: Any
    least: Any


def rows(data: Data) -> Rows:
    """Returns the row space: each row has coordinates of its own, so A A^T inverts."""
    a = matrix(data.labels)[data.train]
    inverse = np.linalg.inv(a @ a.T)
    return Rows(inverse, a.T @ (inverse @ data.labels[data.train]))


def beyond_rows(x: jax.Array, data: Data, space: Rows) -> jax.Array:
    """Returns the distance of x from the row space."""
    ax, transposed = jax.vjp(lambda x: predict(x, data.labels)[data.train], x)
    (inside,) = transposed(space.inverse @ ax)
    return jnp.linalg.norm(x - inside)
