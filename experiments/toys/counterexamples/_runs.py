"""All runs of the counterexamples, in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments.toys._descent import descend, over_all, pick, step_sizes
from experiments.toys.counterexamples import _problems
from experiments.toys.counterexamples._config import Config

Make = Callable[[Any], optax.GradientTransformation]  # of a step size

METHODS: dict[str, Make] = {
    "signSGD": ef_optax.sign_sgd,
    "scaled signSGD": ef_optax.scaled_sign_sgd,
    "top-1": lambda rate: optax.chain(
        ef_optax.compress(ef_optax.top_k(k=1)), optax.scale_by_learning_rate(rate)
    ),
    "SGD": lambda rate: ef_optax.ef_sgd(rate, ef_optax.identity()),
    "EF-signSGD": ef_optax.ef_sign_sgd,
    "EF top-1": lambda rate: ef_optax.ef_sgd(rate, ef_optax.top_k(k=1)),
}
# Step sizes chosen by looking at the loss.
SEARCHES: dict[str, Make] = {
    "Option 2": lambda rate: ef_optax.accept_if_lower(ef_optax.sign_sgd(rate)),
    "line search": lambda rate: optax.chain(
        ef_optax.sign_sgd(1.0), optax.scale_by_backtracking_linesearch(20)
    ),
}
STARTS = ((1.0, 1.0), (1.5, 0.5), (1.3, 0.7))
ZEROS = ("+1", "random", "0")
TIES: tuple[Literal["zero", "positive", "random"], ...] = (
    "zero", "positive", "random"
)


class Points(NamedTuple):
    """What was seen of points in the plane, arrays with the axes of the runs.

    Attributes:
      drift: of x1 + x2 from 2, relative to the largest coordinate, the largest of the
        run; infinite points, where a method diverged along the line, do not count.
      least: the least loss of the run, over that of (1, 1).
      last: the loss of the last point, over that of (1, 1).
      sums: x1 + x2 at every step, [..., T + 1].
      losses: the loss over that of (1, 1) at every step, [..., T + 1].
    """

    drift: np.ndarray
    least: np.ndarray
    last: np.ndarray
    sums: np.ndarray
    losses: np.ndarray

    def at(self, *index: Any) -> Points:
        """Returns the runs at an index of the leading axes."""
        return Points(*(values[index] for values in self))


def seen(points: np.ndarray, loss: Callable[..., Any], epsilons: Any) -> Points:
    """Returns what is kept of points [cases, epsilons, ..., T + 1, 2]."""
    finite = np.isfinite(points).all(-1)
    with np.errstate(over="ignore", invalid="ignore"):  # where methods diverge
        values = np.stack([
            loss(points[:, i], e) / loss(_problems.LEAST, e)
            for i, e in enumerate(epsilons)
        ], 1)
        sums, largest = points.sum(-1), abs(points).max(-1)
        away = np.where(finite, abs(sums - 2) / np.maximum(1.0, largest), 0.0)
    values = np.where(finite, values, np.inf)
    return Points(away.max(-1), values.min(-1), values[..., -1], sums, values)


def rates(config: Config, steps: int | None = None) -> np.ndarray:
    """Returns the step sizes of all schedules, [schedules, steps]."""
    return np.stack([
        step_sizes(name, steps or config.steps, config.seed)
        for name in config.schedules
    ])


def zeros(rule: str, config: Config) -> np.ndarray:
    """Returns what sign(0) is in the subgradient of counterexample 2 at each step."""
    shape = (config.steps, 2)
    if rule == "random":
        return np.random.default_rng(config.seed).choice([-1.0, 1.0], shape)
    return np.full(shape, float(rule))


def terms(
    config: Config, *shape: int, of: int = 2, steps: int | None = None
) -> np.ndarray:
    """Returns which term each step's gradient is of, [repeats, *shape, steps]."""
    rng = np.random.default_rng((config.seed, of, *shape))
    return rng.integers(0, of, (config.repeats, *shape, steps or config.steps))


def anywhere(config: Config) -> np.ndarray:
    """Returns a random point of the line x1 + x2 = 2 for every repeat."""
    first = np.random.default_rng(config.seed).uniform(-2, 4, config.repeats)
    return np.stack([first, 2 - first], 1)


def example_1(
    makes: Sequence[Make], config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Runs counterexample 1 from 0.

    Returns:
      The mean change of f a step, over γ, without the constraint [methods, repeats];
      and x on [-1, 1], [methods, fixed step sizes, repeats, steps + 1].
    """
    # The first is not constrained.
    sizes = np.array([1.0, *config.fixed])
    widths = np.array([np.inf] + [1.0] * len(config.fixed))

    def run(which: Any, each: Any, drawn: Any) -> jax.Array:
        rate, width = each
        return descend(
            pick(which, [make(rate) for make in makes]), lambda x, g: g, jnp.zeros(()),
            drawn, project=lambda x: jnp.clip(x, -width, width),
        )

    drawn = _problems.GRADIENTS_1[terms(config, of=4)]
    x = over_all(run, np.arange(len(makes)), (sizes, widths), drawn)
    return _problems.loss_1(x[:, 0, :, -1]) / config.steps, x[:, 1:]


def example_2(
    makes: Sequence[Make],
    config: Config,
    starts: Any = STARTS[:1],
    rules: Any = ZEROS[:1],
    epsilons: tuple[float, ...] | None = None,
) -> Points:
    """Runs counterexample 2 with the full subgradient.

    Args:
      makes: the optimizers.
      config: of the study.
      starts: x_0.
      rules: what sign(0) is in the subgradient, of ZEROS.
      epsilons: those of the configuration if None.

    Returns:
      Arrays with leading axes for makes, epsilons, schedules, starts, rules.
    """

    def run(which: Any, epsilon: Any, rate: Any, start: Any, zero: Any) -> Any:
        return descend(
            pick(which, [make(lambda t: rate[t]) for make in makes]),
            lambda x, zero: _problems.subgradient_2(x, zero, epsilon), start, zero,
            loss=lambda x: _problems.loss_2(x, epsilon),
        )

    epsilons = epsilons or config.epsilons
    points = over_all(
        run, np.arange(len(makes)), np.array(epsilons), rates(config),
        np.array(starts), np.stack([zeros(rule, config) for rule in rules]),
    )
    return seen(points, _problems.loss_2, epsilons)


def example_3(
    makes: Sequence[Make],
    config: Config,
    starts: Sequence[Any] | None = None,
    epsilons: tuple[float, ...] | None = None,
) -> Points:
    """Runs counterexample 3 with batches of one.

    Args:
      makes: the optimizers.
      config: of the study.
      starts: x_0 for each of them, a point or one for every repeat; (1, 1) if None.
      epsilons: those of the configuration if None.

    Returns:
      Arrays with leading axes for makes, epsilons, schedules, repeats.
    """
    starts = STARTS[:1] * len(makes) if starts is None else starts
    shape = (config.repeats, 2)
    each = np.stack([np.broadcast_to(start, shape) for start in starts])

    def run(case: Any, epsilon: Any, rate: Any, drawn: Any) -> Any:
        which, start = case
        term, repeat = drawn
        return descend(
            pick(which, [make(lambda t: rate[t]) for make in makes]),
            lambda x, term: _problems.gradient_3(x, term, epsilon), start[repeat], term,
            loss=lambda x: _problems.loss_3(x, epsilon),
        )

    epsilons = epsilons or config.epsilons
    points = over_all(
        run, (np.arange(len(makes)), each), np.array(epsilons), rates(config),
        (terms(config), np.arange(config.repeats)),
    )
    return seen(points, _problems.loss_3, epsilons)


def votes(config: Config, workers: int) -> Points:
    """Runs counterexample 3 by majority vote; axes: ties, 1, schedules, repeats."""

    def run(which: Any, rate: Any, drawn: Any) -> Any:
        term, repeat = drawn
        key = jax.random.fold_in(jax.random.key(config.seed), repeat)

        def worker(term: Any) -> Any:
            return descend(
                pick(which, [
                    ef_optax.sign_sgd(
                        lambda t: rate[t], axis_name="w", tie=tie, key=key
                    ) for tie in TIES
                ]),
                lambda x, term: _problems.gradient_3(x, term, config.epsilon),
                jnp.asarray(_problems.LEAST), term,
            )

        # All workers are at the same point; looking at the first is enough.
        return jax.vmap(worker, axis_name="w")(term)[0]

    points = over_all(
        run, np.arange(len(TIES)), rates(config, config.vote_steps),
        (terms(config, workers, steps=config.vote_steps), np.arange(config.repeats)),
    )
    return seen(points[:, None], _problems.loss_3, [config.epsilon])


class Away(NamedTuple):
    """What was seen of a run of Theorem I.

    Attributes:
      across: the largest component of x_t - x_0 orthogonal to s, relative to the
        largest coordinate.
      distance: to x*, at every step, over that of x_0.
      floor: the distance of the line x_0 + R s to x*, over that of x_0.
    """

    across: Any
    distance: Any
    floor: Any

    def at(self, index: int) -> Away:
        """Returns one along the first axis."""
        return Away(*(values[index] for values in self))


def theorem_1(makes: Sequence[Make], config: Config, dimension: int) -> Away:
    """Runs problems of Theorem I; leading axes: makes, losses, schedules, repeats.

    Every repeat has another problem.
    """
    count = config.points * dimension
    problems = [
        _problems.linear(dimension, count, config.seed + i)
        for i in range(config.repeats)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)

    def run(which: Any, loss: Any, rate: Any, drawn: Any) -> Away:
        problem, term = drawn

        def across(x: Any) -> Any:
            along = jnp.dot(x, problem.signs) / dimension
            return jnp.linalg.norm(x - along * problem.signs)

        def observe(x: Any, state: Any) -> tuple[Any, Any]:
            del state
            largest = jnp.maximum(1.0, jnp.abs(x).max())
            return across(x - problem.start) / largest, jnp.linalg.norm(
                x - problem.best
            )

        away, distance = descend(
            pick(which, [make(lambda t: rate[t]) for make in makes]),
            lambda x, i: _problems.gradient_linear(x, i, problem, loss),
            problem.start, term, observe=observe,
        )
        floor = across(problem.best - problem.start)
        return Away(away.max(), distance / distance[0], floor / distance[0])

    drawn = (stacked, terms(config, of=count))
    return over_all(
        run, np.arange(len(makes)), np.arange(len(_problems.LOSSES)), rates(config),
        drawn,
    )
