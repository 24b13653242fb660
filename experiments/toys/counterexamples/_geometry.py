"""The geometry of counterexamples 2 and 3, looked at in random points of the plane."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments.toys._descent import descend, over_all, pick
from experiments.toys.counterexamples import _problems, _runs
from experiments.toys.counterexamples._config import Config

PATH_RATE, PATH_STEPS = 0.07, 400
PATH_START = (1.45, 0.55)
PATHS = ("signSGD", "scaled signSGD", "SGD", "EF-signSGD")


def compress_once(g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the sign of g, and what EF-signSGD has not sent of it (γ = 1)."""
    sign_tx, feedback = ef_optax.sign_sgd(1.0), ef_optax.ef_sign_sgd(1.0)
    sign, _ = sign_tx.update(g, sign_tx.init(g))
    _, state = feedback.update(g, feedback.init(g))
    # The library's errors are in units of the update, which goes against g.
    return -sign, -optax.tree.get(state, "error")


class Figure1(NamedTuple):
    """What holds at random points with x1 + x2 > 0.

    Attributes:
      signs: whether the sign of the subgradient is (1, -1) or (-1, 1), at how many.
      points: of how many.
      error: the largest deviation of the error from ε (1, 1).
    """

    signs: int
    points: int
    error: float


def arrows(x: np.ndarray, epsilon: float) -> tuple[np.ndarray, ...]:
    """Returns subgradients of counterexample 2, their signs and errors, at points."""

    def at(x: Any) -> Any:
        g = _problems.subgradient_2(x, jnp.ones(2), epsilon)
        return g, *compress_once(g)

    return over_all(at, x)


def figure_1(config: Config) -> Figure1:
    """Looks at the subgradients of counterexample 2, with Figure 1's ε."""
    x = np.random.default_rng(config.seed).uniform(-3, 3, (config.grid_points, 2))
    x *= np.sign(x.sum(1, keepdims=True))
    _, signs, errors = arrows(x, config.epsilon)
    along = (signs == [1, -1]).all(1) | (signs == [-1, 1]).all(1)
    return Figure1(int(along.sum()), len(x), float(abs(errors - config.epsilon).max()))


class Cone(NamedTuple):
    """Success probabilities and steps at random points, for one ε.

    Attributes:
      inside: share of the points in the cone.
      most: the largest ρ_i in it.
      outside: the least ρ_i out of it.
      nearer: the share of the points out of it from which every step leads nearer.
    """

    inside: float
    most: float
    outside: float
    nearer: float


def cones(config: Config, rate: float = 1e-3) -> dict[float, Cone]:
    """Looks at the gradients of counterexample 3, for every ε."""
    x = np.random.default_rng(config.seed).uniform(-2, 2, (config.grid_points, 2))
    tx = ef_optax.sign_sgd(rate)

    def at(epsilon: Any, x: Any) -> Any:
        samples = jax.vmap(lambda i: _problems.gradient_3(x, i, epsilon))(jnp.arange(2))
        gradient = samples.sum(0)  # of f, whose terms are drawn one in two
        success = ef_optax.measures.success_probabilities(samples, gradient)
        moved = x + jax.vmap(lambda g: tx.update(g, tx.init(g))[0])(samples)
        inner = jnp.prod(_problems.vectors_3(epsilon) @ x)
        return jnp.where(gradient == 0, jnp.nan, success), moved, inner

    across = abs(x[:, 0] - x[:, 1])
    out = {}
    for epsilon, success, moved, inner in zip(
        config.epsilons, *over_all(at, np.array(config.epsilons), x), strict=True
    ):
        after = abs(moved[..., 0] - moved[..., 1]).max(1)
        far = (inner < 0) & (across > 2 * rate)
        out[epsilon] = Cone(
            float((inner > 0).mean()),
            float(np.nanmax(success[inner > 0], initial=0)),
            float(np.nanmin(success[inner < 0], initial=1)),
            float((after < across)[far].mean()) if far.any() else 1.0,
        )
    return out


def paths(config: Config) -> dict[str, np.ndarray]:
    """Returns the first points of some methods on counterexample 2, for the figure."""
    makes = {name: _runs.METHODS[name] for name in PATHS}
    makes["Signum"] = lambda rate: ef_optax.signum(rate, config.beta)

    def run(which: Any, zero: Any) -> Any:
        return descend(
            pick(which, [make(PATH_RATE) for make in makes.values()]),
            lambda x, zero: _problems.subgradient_2(x, zero, config.epsilon),
            jnp.asarray(PATH_START), zero,
        )

    points = over_all(run, np.arange(len(makes)), np.ones((1, PATH_STEPS, 2)))
    return dict(zip(makes, points[:, 0], strict=True))
