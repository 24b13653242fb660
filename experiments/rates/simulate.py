"""Many runs of one of the library's optimizers at once, step by step under a scan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.rates.problems import GAUSSIAN, Noise, Problem

# So many steps are one call: runs of any length share what was compiled.
CHUNK = 64
# Half the time to compile, and the same to run: the programs are small.
QUICK = {"xla_backend_optimization_level": 1}

Make = Callable[[Any, Any], optax.GradientTransformation]


class Step(NamedTuple):
    """What may be measured at step t, before the step is applied.

    Attributes:
      x: x_t.
      gradient: the true gradient there.
      average: the mean of x_0 ... x_t.
      scale: the deviation of the noise at this step.
      count: t + 1.
      state: the optimizer's state after it saw the gradient of step t.
    """

    x: jax.Array
    gradient: jax.Array
    average: jax.Array
    scale: jax.Array
    count: jax.Array  # type: ignore[assignment]  # shadows tuple.count
    state: Any


class Simulation:
    """Runs of an optimizer from one start, for many seeds.

    Args:
      problem: what is minimised.
      make: (learning_rate, key) -> the optimizer; both are traced. It is made anew
        at every step, so that a rate may fall with t whatever the optimizer does.
      measure: from a `Step` to named scalars.
      seeds: how many runs.
      noise: what is added to the gradient.
      workers: how many vote or average, on the axis "workers"; None for one worker
        without an axis.
      seed: of all runs; algorithms with the same one see the same noise.
    """

    def __init__(
        self,
        problem: Problem,
        make: Make,
        measure: Callable[[Step], dict[str, jax.Array]],
        seeds: int,
        *,
        noise: Noise = GAUSSIAN,
        workers: int | None = None,
        seed: int = 0,
    ):
        self.problem, self.make, self.measure = problem, make, measure
        self.seeds, self.workers, self.seed = seeds, workers, seed
        d = problem.start.shape
        self._draw = _drawer(noise.draw, d if workers is None else (workers, *d))
        self._start = jax.jit(jax.vmap(self._init), compiler_options=QUICK)
        self._chunk = jax.jit(
            self._steps, donate_argnums=1, compiler_options=QUICK
        )

    def run(
        self, steps: int, rate: float, *, scale: float, batch: float = 1.0,
        decay: float = 0.0, growth: float = 0.0,
    ) -> dict[str, Any]:
        """Returns what was measured, in float64, as [steps, seeds, ...].

        Args:
          steps: how many.
          rate: step t has the learning rate rate · (t + 1)^-decay.
          scale: of the noise in a batch of one; a batch of n has scale/√n.
          batch: step t has a batch of batch · (t + 1)^growth.
          decay: see `rate`.
          growth: see `batch`.
        """
        how = jnp.float32([rate, decay, scale, batch, growth])
        keys = jax.random.split(jax.random.key(self.seed), self.seeds)
        carry = self._start(keys)
        chunks = []
        for start in range(0, steps, CHUNK):
            steps_here = jnp.int32(start) + jnp.arange(CHUNK)
            carry, measured = self._chunk(
                keys, carry, steps_here, self._draw(keys, steps_here), how
            )
            chunks.append(measured)
        return {
            name: np.concatenate([np.asarray(c[name], np.float64) for c in chunks])[
                :steps
            ]
            for name in chunks[0]
        }

    def _init(self, key: jax.Array) -> Any:
        x = jnp.float32(self.problem.start)
        if self.workers is None:
            state = self._optimizer(jnp.float32(0), key).init(x)
        else:
            state = jax.vmap(
                lambda _: self._optimizer(jnp.float32(0), key).init(x),
                axis_name="workers",
            )(jnp.arange(self.workers))
        return x, jnp.zeros_like(x), state

    def _optimizer(self, rate: Any, key: Any) -> Any:
        tx = self.make(rate, jax.random.fold_in(key, 2**31 - 1))
        return optax.with_extra_args_support(tx)

    def _steps(
        self, keys: Any, carry: Any, steps: Any, noise: Any, how: jax.Array
    ) -> Any:
        one = functools.partial(self._step, how=how)

        def body(carry: Any, given: Any) -> Any:
            t, noise = given
            return jax.vmap(lambda key, c, n: one(key, c, n, t))(keys, carry, noise)

        return jax.lax.scan(body, carry, (steps, noise))

    def _step(
        self, key: Any, carry: Any, noise: Any, t: Any, how: jax.Array
    ) -> Any:
        x, total, state = carry
        rate, decay, scale, batch, growth = how
        g = self.problem.gradient(x)
        total = total + x
        count = (t + 1).astype(jnp.float32)
        scale = scale / jnp.sqrt(batch * count**growth)
        tx = self._optimizer(rate * count**-decay, key)
        noisy = g + scale * noise

        def update(noisy: Any, state: Any) -> Any:
            return tx.update(noisy, state, x, value_fn=self.problem.value)

        if self.workers is None:
            step, state = update(noisy, state)
        else:
            steps, state = jax.vmap(update, axis_name="workers")(noisy, state)
            step = steps[0]  # the same for all
        measured = self.measure(Step(x, g, total / count, scale, count, state))
        return (optax.apply_updates(x, step), total, state), measured


@functools.lru_cache
def _drawer(draw: Callable[..., jax.Array], shape: tuple[int, ...]) -> Any:
    """Returns (keys, steps) -> noise as [steps, seeds, *shape], for all algorithms."""

    def one(key: jax.Array, step: jax.Array) -> jax.Array:
        return draw(jax.random.fold_in(key, step), shape)

    over_seeds = jax.vmap(one, in_axes=(0, None))
    over_steps = jax.vmap(over_seeds, in_axes=(None, 0))
    return jax.jit(over_steps, compiler_options=QUICK)


def prefix_means(measured: np.ndarray, horizons: Any) -> np.ndarray:
    """Returns the mean over the first T steps for each T, as [seeds, horizons]."""
    sums = np.cumsum(measured, axis=0)
    return np.stack([sums[t - 1] / t for t in horizons], axis=1)


def weighted_means(
    measured: np.ndarray, weights: np.ndarray, horizons: Any
) -> np.ndarray:
    """Returns means weighted by [steps], over the first T steps for each T."""
    sums = np.cumsum(measured * weights[:, None], axis=0)
    total = np.cumsum(weights)
    return np.stack([sums[t - 1] / total[t - 1] for t in horizons], axis=1)
