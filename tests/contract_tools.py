"""Trees, and comparisons of trees that may hold keys, for the contract suite."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Optimizes little: that takes longer than all the steps of these tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def full_compilation():
    """Optimizes as users do, where a test reads what a compiler made of a program."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# Leaves of every kind: 16 bits, a matrix, a scalar, nothing, an empty one.
PARAMS = {
    "half": jnp.arange(6.0).reshape(2, 3).astype(jnp.bfloat16) / 4,
    "matrix": jnp.arange(24.0).reshape(4, 6) / 8,
    "scalar": jnp.array(0.5, jnp.float32),
    "none": None,
    "empty": jnp.zeros((0, 3)),
}
# Few enough to compile a program for each case.
SMALL = {name: PARAMS[name] for name in ("half", "matrix")}


def gradients(seed, like=PARAMS, lead=()):
    """Returns gradients, a few of them zero."""
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    numbers = (jax.random.normal(k, (*lead, *x.shape)) for k, x in
               zip(keys, leaves, strict=True))
    return treedef.unflatten(
        jnp.where(jnp.abs(n) < 0.1, 0, n).astype(x.dtype)
        for n, x in zip(numbers, leaves, strict=True)
    )


# Comparison of trees that may hold keys.


def types(tree):
    """Returns shape, dtype and weak type of every leaf, abstract or not."""
    abstract = jax.tree.map(
        lambda x: x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x), tree)
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), abstract)


def assert_types(actual, expected):
    actual, expected = types(actual), types(expected)
    assert actual == expected, f"{actual}\n!=\n{expected}"


def structs(tree, lead=(), dtype=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), dtype or x.dtype), tree)


def is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def values(tree):
    """Returns what numpy can compare: keys as their bits."""
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def assert_same(actual, expected):
    """Asserts the same structure, types and bits."""
    assert_types(actual, expected)
    chex.assert_trees_all_equal(values(actual), values(expected))


def assert_close(actual, expected, ulps=8):
    """Asserts equality up to a few ulp of the largest number of each leaf."""
    assert_types(actual, expected)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected),
        strict=True,
    ):
        if is_key(x) or not jnp.issubdtype(x.dtype, jnp.floating):
            assert_same(x, y)
        elif x.size:
            x, y, eps = np.float64(x), np.float64(y), float(jnp.finfo(x.dtype).eps)
            slack = ulps * eps * max(np.max(np.abs(y)), 0.25)
            np.testing.assert_allclose(x, y, rtol=0, atol=slack, err_msg=f"{path}")


def states(state, kind):
    """Returns the states of one kind in a state, however deep."""
    found = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, kind))
    return [x for x in found if isinstance(x, kind)]


@contextlib.contextmanager
def compilations():
    """Collects the programs that XLA compiles meanwhile."""
    found = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(kwargs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
