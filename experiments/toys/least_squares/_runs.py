"""The runs of the least-squares study, in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments.toys._descent import descend, over_all, pick
from experiments.toys.least_squares import _data, _span
from experiments.toys.least_squares._config import Config

ROOM = 8  # dimensions of the span of the gradients; there are two, see the summary
FEEDBACK, SUM = "EF-signSGD", "sign of the sum"


def ef_sign_sgd(rate: Any) -> optax.GradientTransformation:
    """`ef_optax.ef_sign_sgd`, which also records ‖e‖ and φ(γ g + e)."""
    feedback = ef_optax.error_feedback(ef_optax.scaled_sign())
    return optax.chain(
        optax.scale_by_learning_rate(rate), ef_optax.record_measures(feedback)
    )


def methods(config: Config) -> dict[str, Callable[[Any], Any]]:
    """Returns the optimizers, of their learning rate."""
    return {
        "SGD": lambda rate: ef_optax.ef_sgd(rate, ef_optax.identity()),
        "signSGD": ef_optax.sign_sgd,
        "SIGNSGDM": lambda rate: ef_optax.signum(rate, config.beta),
        FEEDBACK: ef_sign_sgd,
        "scaled signSGD": ef_optax.scaled_sign_sgd,
        # The reference code's momentum never decays.
        SUM: lambda rate: ef_optax.signum(rate, 1.0, momentum="heavy_ball"),
    }


class Tuned(NamedTuple):
    """The grid of learning rates.

    Attributes:
      best: the learning rate with the least train loss, the mean of the last tenth.
      train: that loss, by learning rate; infinite if it is not finite.
      test: the test loss likewise.
    """

    best: float
    train: np.ndarray
    test: np.ndarray


class Course(NamedTuple):
    """What was seen along the runs, [repeats, steps + 1].

    Attributes:
      train: train loss.
      test: test loss.
      span: distance from the span of the gradients so far.
      rows: distance from the row space of A.
      norm: ‖x‖.
      solution: distance from the solution of least norm, over its norm.
      error: ‖e‖; 0 without error feedback.
      bound: of Remark 10; 0 without error feedback.
      rank: dimensions of the span.
    """

    train: Any
    test: Any
    span: Any
    rows: Any
    norm: Any
    solution: Any
    error: Any
    bound: Any
    rank: Any


def draws(config: Config, count: int, first: int) -> Any:
    """Returns data and their row spaces, with a leading axis."""
    data = [_data.draw(config.points, config.seed + first + i) for i in range(count)]
    both = [(d, _data.rows(d)) for d in data]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *both)


def tune(make: Callable[[Any], Any], config: Config) -> Tuned:
    """Runs the grid on draws of its own, far from those of `courses`."""

    def run(rate: Any, both: Any) -> Any:
        data, _ = both
        train, test = descend(
            make(rate), lambda x, _: _data.gradient(x, data), _start(config),
            jnp.zeros(config.steps), lambda x, state: _data.losses(x, data),
        )
        # At the last step alone, what oscillates is a matter of luck.
        return train[-tenth:].mean(), test[-tenth:].mean()

    tenth = max(1, config.steps // 10)
    both = draws(config, config.tune_repeats, first=1_000_000)
    train, test = over_all(run, np.array(config.grid), both)
    train = train.mean(1)
    train = np.where(np.isfinite(train), train, np.inf)
    return Tuned(config.grid[int(train.argmin())], train, test.mean(1))


def courses(rates: dict[str, float], config: Config) -> dict[str, Course]:
    """Runs every method at its learning rate, and looks at every step."""
    makes = [methods(config)[name] for name in rates]

    def run(case: Any, both: Any) -> Course:
        (which, rate), (data, space) = case, both
        tx = optax.chain(
            _span.remember_span(ROOM), pick(which, [make(rate) for make in makes])
        )

        def observe(x: Any, state: Any) -> Course:
            train, test = _data.losses(x, data)
            spanned, inner = state
            # Of EF-signSGD alone, whichever method runs.
            feedback = next(
                node for node in jax.tree.leaves(inner, is_leaf=_is_measures)
                if _is_measures(node)
            )
            return Course(
                train, test, _span.span_distance(x, spanned),
                _data.beyond_rows(x, data, space), jnp.linalg.norm(x),
                jnp.linalg.norm(x - space.least) / jnp.linalg.norm(space.least),
                feedback.error_norm, (feedback.corrected_density, spanned.largest),
                spanned.rank,
            )

        return descend(
            tx, lambda x, _: _data.gradient(x, data), _start(config),
            jnp.zeros(config.steps), observe,
        )

    cases = (np.arange(len(makes)), np.array(list(rates.values())))
    seen = over_all(run, cases, draws(config, config.repeats, first=0))
    out = {}
    for i, (name, rate) in enumerate(rates.items()):
        one = Course(*(jax.tree.map(lambda x, i=i: x[i], field) for field in seen))
        density, largest = one.bound
        # Before the first step there is no density.
        least = np.minimum.accumulate(np.where(density > 0, density, 1.0), 1)
        bound = 2 * rate * np.sqrt(1 - least) / least * largest
        own = name == FEEDBACK
        out[name] = one._replace(bound=bound * own, error=one.error * own)
    return out


def _is_measures(node: Any) -> bool:
    return isinstance(node, ef_optax.MeasuresState)


def _start(config: Config) -> jax.Array:
    return jnp.zeros(_data.dimension(config.points))

