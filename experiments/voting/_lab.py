"""Training with any number of workers inside one device, by `jax.vmap`."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments.adversaries import opposed
from experiments.training import AXIS, Classification
from experiments.voting._methods import METHODS


class Curve(NamedTuple):
    """One training, looked at from time to time.

    Attributes:
      train_loss: on the first training examples, [looks].
      test_loss: [looks].
      test_accuracy: in percent, [looks].
      params: at every look, leaves [looks, ...].
    """

    train_loss: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    params: Any


class Noise(NamedTuple):
    """How often signs are wrong at one point, coordinate by coordinate.

    Attributes:
      gradient: of all training examples, [d].
      deviation: sigma, of one worker's stochastic gradient, [d].
      lean: the mean of sign(stochastic gradient) sign(gradient), [d].
      wrong: how often the vote has not the gradient's sign, [numbers of workers, d].
    """

    gradient: np.ndarray
    deviation: np.ndarray
    lean: np.ndarray
    wrong: np.ndarray


class Lab:
    """A task, and batches of one size for each of up to so many workers.

    Every worker draws from all training examples, so that workers differ by chance
    only, as the papers assume. Fewer workers are the first of the more.
    """

    def __init__(self, task: Classification, batch_size: int, most: int, sample: int):
        self.task = task
        self._batch, self._most = batch_size, most
        data = task.data
        # Arguments of the programs: as constants they would take long to compile.
        self._data = jax.device_put((data.x_train, data.y_train))
        self._parts = jax.device_put((
            (data.x_train[:sample], data.y_train[:sample]), (data.x_test, data.y_test)
        ))

    def orders(
        self, seed: int, steps: int, workers: int, times: int = 1
    ) -> np.ndarray:
        """Returns examples of all batches, [steps, workers, times batch]."""
        rng = np.random.default_rng([seed, 5])
        shape = steps, self._most, times * self._batch
        count = len(self.task.data.y_train)
        return rng.integers(0, count, shape, np.int32)[:, :workers]

    def train(
        self, name: str, workers: int, rate: float, seed: int, looks: int, every: int,
        adversaries: int = 0, factor: float = 1.0,
    ) -> Curve:
        """Trains from the start.

        Args:
          name: of the method.
          workers: how many.
          rate: the learning rate.
          seed: of initial values and batches.
          looks: at how many points to look.
          every: after how many steps each.
          adversaries: how many workers multiply their gradients by -factor.
          factor: by what.

        Raises:
          RuntimeError: if the workers did not stay alike.
        """
        orders = self.orders(seed, looks * every, workers)
        params, alike = self._train(
            self._data, self.task.init(seed),
            orders.reshape(looks, every, workers, self._batch), np.float32(rate),
            adversaries, np.float32(factor), name=name,
        )
        if not alike:
            raise RuntimeError(f"{name}: the workers' updates were not the same.")
        # In a program of its own, so that it is compiled once for all methods.
        (train_loss, _), (test_loss, accuracy) = self._scores(params, self._parts)
        return Curve(
            np.asarray(train_loss), np.asarray(test_loss), 100 * np.asarray(accuracy),
            params,
        )

    @functools.partial(jax.jit, static_argnums=0)
    def _scores(self, params: Any, parts: Any) -> Any:
        def score(params: Any) -> Any:
            return [self.task.measure(params, x, y) for x, y in parts]

        return jax.lax.map(score, params)

    @functools.partial(jax.jit, static_argnums=0, static_argnames="name")
    def _train(
        self, data: Any, params: Any, orders: jax.Array, rate: Any, adversaries: Any,
        factor: Any, *, name: str,
    ) -> Any:
        tx = optax.with_extra_args_support(optax.chain(
            opposed(adversaries, factor, AXIS), METHODS[name].make(rate, AXIS)
        ))
        workers = jnp.arange(orders.shape[2])
        # What belongs to a worker is made where the axis is bound.
        state = jax.vmap(lambda _: tx.init(params), axis_name=AXIS)(workers)

        def step(carry: Any, batches: jax.Array) -> Any:
            params, state, alike = carry

            def worker(state: Any, batch: jax.Array) -> Any:
                return tx.update(self._gradient(data, params, batch), state, params)

            updates, state = jax.vmap(worker, axis_name=AXIS)(state, batches)
            same = [
                jnp.all((u == u[:1]) | jnp.isnan(u)) for u in jax.tree.leaves(updates)
            ]
            first = jax.tree.map(lambda u: u[0], updates)
            params = optax.apply_updates(params, first)
            return (params, state, alike & jnp.all(jnp.stack(same))), None

        def block(carry: Any, batches: jax.Array) -> Any:
            carry, _ = jax.lax.scan(step, carry, batches)
            return carry, carry[0]

        (_, _, alike), seen = jax.lax.scan(
            block, (params, state, jnp.array(True)), orders
        )
        return seen, alike

    def _gradient(self, data: Any, params: Any, batch: jax.Array) -> Any:
        x, y = data
        return jax.grad(self.task.loss)(params, x[batch], y[batch])

    def noise(
        self, params: Any, workers: tuple[int, ...], draws: int, seed: int,
        times: int = 1,
    ) -> Noise:
        """Returns `Noise` at a point, for several numbers of workers at once.

        Args:
          params: the point.
          workers: how many vote.
          draws: how many votes.
          seed: of the batches.
          times: how many times larger than usual they are.
        """
        orders = self.orders(seed, draws, max(workers), times)
        found = self._noise(self._data, params, orders, np.array(workers))
        return Noise(*map(np.asarray, found))

    @functools.partial(jax.jit, static_argnums=0)
    def _noise(
        self, data: Any, params: Any, orders: jax.Array, workers: jax.Array
    ) -> Any:
        def flat(tree: Any) -> jax.Array:
            return jax.flatten_util.ravel_pytree(tree)[0]

        true = flat(jax.grad(self.task.loss)(params, *data))
        vote = ef_optax.majority_vote(AXIS)

        def of_some(g: jax.Array, count: jax.Array) -> jax.Array:
            # The others abstain.
            own = jnp.where(jax.lax.axis_index(AXIS) < count, g, 0)
            return vote.update(own, vote.init(own))[0]

        def add(sums: Any, batches: jax.Array) -> Any:
            g = jax.vmap(lambda b: flat(self._gradient(data, params, b)))(batches)
            votes = jax.vmap(
                lambda n: jax.vmap(of_some, (0, None), axis_name=AXIS)(g, n)[0]
            )(workers)
            new = (
                votes != jnp.sign(true),
                (g - true).sum(axis=0), ((g - true) ** 2).sum(axis=0),
                (jnp.sign(g) * jnp.sign(true)).sum(axis=0),
            )
            return jax.tree.map(jnp.add, sums, new), None

        zeros = jnp.zeros_like(true)
        start = jnp.zeros((len(workers), true.size)), zeros, zeros, zeros
        (wrong, first, second, lean), _ = jax.lax.scan(add, start, orders)
        count = orders.shape[0] * orders.shape[1]
        variance = second / count - (first / count) ** 2
        deviation = jnp.sqrt(jnp.maximum(variance, 0))
        return true, deviation, lean / count, wrong / orders.shape[0]
