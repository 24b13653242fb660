"""Numbers so large or rates so small that something could overflow: nothing is lost."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401

import ef_optax as eo

AXIS = "workers"


def train(tx, grads):
    """Returns every step's update, and the last state."""
    state, out = tx.init(jax.tree.map(lambda g: g[0], grads)), []
    for t in range(len(jax.tree.leaves(grads)[0])):
        updates, state = tx.update(jax.tree.map(lambda g, t=t: g[t], grads), state)
        out.append(updates)
    return out, state


@pytest.mark.parametrize("exchange", [None, eo.two_way()])
def test_an_error_of_16_bits_stays_at_the_largest_number(exchange):
    tx = eo.error_feedback(
        eo.top_k(k=1), axis_name=AXIS, exchange=exchange,
        accumulator_dtype=jnp.float16)

    def run(grads):
        (*_, last), state = train(tx, grads)
        return last, state

    grads = jnp.full((2, 4, 6), 9e4)  # above 65,504
    last, state = jax.vmap(run, axis_name=AXIS)(grads)
    assert np.isfinite(last).all()
    errors = [state.error] + ([] if exchange is None else [state.exchange.error])
    for error in errors:
        assert error.dtype == jnp.float16 and np.isfinite(error).all()
    assert np.max(state.error) == 65504


@pytest.mark.parametrize("compressor", [
    eo.stochastic_sign(0), eo.k_pca(1), eo.scaled_sign(), eo.identity(), eo.top_k(k=3),
    eo.random_k(k=3), eo.scaled_sign(per="tree"), eo.cast(jnp.bfloat16)], ids=repr)
def test_near_the_largest_number_a_step_is_nan_and_changes_nothing(compressor):
    tx = eo.error_feedback(compressor, axis_name=AXIS)

    def run(large):
        grads = jnp.stack([jnp.ones((4, 4)), jnp.full((4, 4), large)])
        out, state = train(tx, grads)
        return out[1], state, train(tx, grads[:1])[1]

    # Finite on every worker, not their sum.
    updates, after, before = jax.vmap(run, axis_name=AXIS)(jnp.array([2e38, 2e38]))
    assert np.isnan(updates).all()
    np.testing.assert_array_equal(after.error, before.error)
    # And far below that everything is as usual.
    updates, after, _ = jax.vmap(run, axis_name=AXIS)(jnp.array([1e30, -2e30]))
    assert np.isfinite(updates).all() and np.isfinite(after.error).all()


@pytest.mark.parametrize("exchange", [None, eo.gather(), eo.two_way()])
def test_a_mean_of_finite_messages_does_not_overflow(exchange):
    tx = eo.compress(eo.identity(), axis_name=AXIS, exchange=exchange)
    mean = jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name=AXIS)(
        jnp.full((2, 3), 2e38))
    assert np.isnan(mean).all()  # and not infinite, which would be applied


def test_a_tiny_rate_after_a_large_one_does_not_stop_the_training():
    def rate(count):
        return jnp.where(count == 0, 1e3, 1e-37)

    tx = optax.chain(
        eo.error_feedback(eo.top_k(k=1), learning_rate=rate),
        optax.scale_by_schedule(rate))
    grads = np.float32([[2, 1]] * 3)
    updates, (state, _) = train(tx, jnp.asarray(grads))
    assert np.isfinite(updates).all()
    # What came in, times its rate, is applied or kept.
    rates = np.float64([1e3, 1e-37, 1e-37])
    np.testing.assert_allclose(
        np.sum(updates, axis=0, dtype=np.float64) + np.float64(state.error),
        rates @ grads, rtol=1e-6)


def test_a_nan_at_a_rate_of_0_stays_one():
    tx = eo.error_feedback(eo.top_k(k=1), learning_rate=0.0)
    x = jnp.ones(3)
    updates, _ = tx.update(x.at[1].set(jnp.nan), tx.init(x))
    assert np.isnan(updates).all()


def test_blocks_larger_than_the_leaf_cost_no_more_than_the_leaf():
    x = jnp.arange(5.0) - 2
    start = time.perf_counter()
    for block in (5, 6, 1 << 20, 1 << 31):
        tx = eo.scaled_sign(per=block)
        updates, _ = jax.jit(tx.update)(x, tx.init(x))
        np.testing.assert_array_equal(updates, 1.2 * jnp.sign(x))
        assert eo.message_bits(tx, x) == 8 + 32
    assert time.perf_counter() - start < 30  # it took minutes


def test_a_fraction_is_the_decimal_that_was_written():
    x = jnp.ones(100)
    for fraction in (0.07, np.float32(0.07), "0.07"):
        tx = eo.top_k(fraction=fraction)
        assert np.count_nonzero(tx.update(x, tx.init(x))[0]) == 7
        assert repr(tx) == "top_k(fraction=0.07, per='leaf')"
