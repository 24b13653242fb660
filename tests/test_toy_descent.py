"""What the toy studies share: descents under scan, step sizes, many methods as one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ef_optax as eo
from experiments.toys._descent import descend, over_all, pick, step_sizes


def test_a_descent_is_seen_from_the_first_point_to_the_last():
    points = descend(
        optax.sgd(0.5), lambda x, drawn: x + drawn, jnp.array([4.0, 8.0]),
        jnp.array([0.0, 2.0]), project=lambda x: jnp.minimum(x, 3.0))
    np.testing.assert_array_equal(points, [[4, 8], [2, 3], [0, 0.5]])


def test_what_is_observed_may_be_any_arrays_of_point_and_state():
    tx = eo.ef_sign_sgd(1.0)
    seen = descend(
        tx, lambda x, _: x, jnp.array([1.0, 3.0]), jnp.zeros(2),
        observe=lambda x, state: {"x": x, "e": eo.error_norm(state)})
    # p = -(1, 3), sent -(2, 2), so e = (1, -1); then x = (-1, 1), p = (2, -2): sent.
    np.testing.assert_array_equal(seen["x"], [[1, 3], [-1, 1], [1, -1]])
    np.testing.assert_allclose(seen["e"], [0, np.sqrt(2), 0], atol=1e-6)


def test_optimizers_that_compare_losses_are_given_them():
    tx = eo.accept_if_lower(eo.sign_sgd(1.0))
    points = descend(
        tx, lambda x, _: 2 * x, jnp.array(2.4), jnp.zeros(5), loss=lambda x: x**2)
    np.testing.assert_allclose(points, [2.4, 1.4, 0.4, 0.4, 0.4, 0.4], rtol=1e-5)


def test_step_sizes():
    np.testing.assert_array_equal(step_sizes("0.5", 3, 0), [0.5] * 3)
    np.testing.assert_allclose(step_sizes("1/t", 3, 0), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(step_sizes("1/sqrt(t)", 2, 0), [1, 2**-0.5])
    drawn = step_sizes("random", 10_000, 7)
    assert drawn.min() > 1e-3 and drawn.max() < 1
    assert abs(np.median(drawn) / 10**-1.5 - 1) < 0.1
    np.testing.assert_array_equal(drawn, step_sizes("random", 10_000, 7))


@pytest.mark.parametrize("name", ["0", "-1", "nan", "inf", "1/t^2", ""])
def test_unknown_schedules_are_refused(name):
    with pytest.raises(ValueError, match="schedule"):
        step_sizes(name, 3, 0)


def test_one_of_many_optimizers_is_that_one():
    every = [
        eo.sign_sgd(0.1), eo.ef_sign_sgd(0.1), eo.signum(0.1, 0.9),
        eo.ef_sgd(0.1, eo.top_k(k=1))]
    start = jnp.array([1.0, -2.0, 0.3])

    def gradient(x, drawn):
        return x + drawn

    draws = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)

    def run(which):
        return descend(pick(which, every), gradient, start, draws)

    together = over_all(run, np.arange(4))
    for points, tx in zip(together, every, strict=True):
        np.testing.assert_allclose(
            points, jax.jit(lambda tx=tx: descend(tx, gradient, start, draws))(),
            rtol=1e-6, atol=1e-7)
    assert len({points.tobytes() for points in together}) == 4


def test_axes_of_all_combinations_are_in_the_order_of_the_arguments():
    def tell(a, pair):
        b, c = pair
        return {"sum": 100 * a + 10 * b + c}

    out = over_all(tell, np.array([1, 2, 3]), (np.array([4, 5]), np.array([6, 7])))
    assert isinstance(out["sum"], np.ndarray)
    np.testing.assert_array_equal(out["sum"], [[146, 157], [246, 257], [346, 357]])
