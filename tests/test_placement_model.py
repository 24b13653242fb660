"""Workers × model: every part of the model is compressed and exchanged alone.

The reference runs each part by itself, its workers by vmap.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import (
    assert_same,
    quick_compilation,  # noqa: F401
)
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from placement_tools import AXIS, PAIR, gradients

import ef_optax as eo
from ef_optax.workers import per_worker_leaves

# Split by columns, by rows, not at all; powers of two, so that scales are exact.
PARAMS = {
    "columns": jnp.arange(8.0).reshape(2, 4) / 8,
    "rows": jnp.arange(8.0).reshape(4, 2).astype(jnp.bfloat16) / 4,
    "whole": jnp.arange(4.0) / 2,
}
SPECS = {"columns": P(None, "model"), "rows": P("model"), "whole": P()}


def mesh_of(shape=(2, 2), names=(AXIS, "model"), kind=AxisType.Auto):
    count = int(np.prod(shape))
    return jax.make_mesh(shape, names, (kind,) * len(names),
                         devices=jax.devices()[:count])


def ef(compressor, **kwargs):
    return lambda axis: eo.error_feedback(compressor, axis_name=axis, **kwargs)


CASES = {
    "scaled_sign": ef(eo.scaled_sign(), exchange=eo.gather()),
    "top_k": ef(eo.top_k(k=1)),
    "random_k": ef(eo.random_k(k=1), exchange=eo.all_reduce()),
    "two_way": ef(eo.scaled_sign(), exchange=eo.two_way()),
    "two_way_other_server": ef(eo.identity(), exchange=eo.two_way(eo.top_k(k=1))),
    "vote": eo.majority_vote,
    "packed_vote": lambda axis: eo.majority_vote(
        axis, wire="packed", zero="random", key=5),
    "momentum_and_vote": lambda axis: optax.chain(
        eo.local(optax.trace(0.5), axis), eo.majority_vote(axis),
        optax.trace(0.5), optax.scale_by_learning_rate(lambda count: 0.5)),
    "exempt": lambda axis: eo.exempt(
        ef(eo.scaled_sign())(axis), {"columns": False, "rows": False, "whole": True},
        axis),
}


def train(tx, params, grads):
    def step(state, g):
        return tx.update(g, state, params)[::-1]

    return lax.scan(step, tx.init(params), grads)


def part_of(tree, specs, axes, index, lead=0):
    """Returns what part `index` of the model holds of arrays with leading axes."""

    def cut(x, spec):
        for dim, entry in enumerate(spec):
            for name in (entry,) if isinstance(entry, str) else entry or ():
                size = x.shape[dim + lead] // axes[name]
                x = lax.dynamic_slice_in_dim(x, index[name] * size, size, dim + lead)
        return x

    return jax.tree.map(cut, tree, specs)


def parts(axes):
    return [dict(zip(axes, i, strict=True)) for i in np.ndindex(*axes.values())]


def check(make, shape=(2, 2), names=(AXIS, "model"), axis=AXIS, specs=SPECS,
          kind=AxisType.Auto, steps=2):
    """Compares two steps on a mesh with each part of the model on its own."""
    mesh = mesh_of(shape, names, kind)
    workers = (axis,) if isinstance(axis, str) else axis
    axes = {n: s for n, s in mesh.shape.items() if n not in workers}
    count = mesh.size // int(np.prod(list(axes.values())))
    place = lambda tree, specs: jax.device_put(tree, jax.tree.map(  # noqa: E731
        lambda spec: NamedSharding(mesh, spec), specs))
    params = place(PARAMS, specs)
    grads = gradients(steps, PARAMS, count)
    tx = eo.over_workers(make(axis), mesh, axis, param_specs=specs)
    state, updates = jax.jit(lambda p, g: train(tx, p, g))(
        params, place(grads, jax.tree.map(lambda s: P(None, axis, *s), specs)))

    alone = make(AXIS)
    reference = jax.jit(jax.vmap(
        lambda p, g: train(alone, p, g), (None, 1), axis_name=AXIS))
    state_specs = eo.state_specs(state, axis, param_specs=specs)
    for x, spec in zip(jax.tree.leaves(state), jax.tree.leaves(state_specs),
                       strict=True):
        assert x.sharding.is_equivalent_to(NamedSharding(mesh, spec), x.ndim)
    for index in parts(axes):
        expected_state, expected = reference(
            part_of(PARAMS, specs, axes, index), part_of(grads, specs, axes, index, 2))
        found = part_of(updates, specs, axes, index, 1)
        for worker in range(count):
            assert_same(found, jax.tree.map(lambda x, w=worker: x[w], expected))
        expected_state = jax.tree.map(
            lambda x, own: x if own else x[0], expected_state,
            per_worker_leaves(expected_state))
        inner = jax.tree.map(
            lambda x, s, own: P(None, *tuple(s)[1:]) if own else s, state, state_specs,
            per_worker_leaves(state))
        assert_same(part_of(state, inner, axes, index), expected_state)
    return state


SHAPES = {"2x2": (2, 2), "4x2": (4, 2), "2x4": (2, 4)}
QUICK = [("random_k", "2x2"), ("two_way", "4x2"), ("packed_vote", "2x2"),
         ("momentum_and_vote", "2x2")]


@pytest.mark.parametrize("name, shape", [
    pytest.param(name, shape, marks=[] if (name, shape) in QUICK else pytest.mark.slow)
    for name in CASES for shape in SHAPES
])
def test_each_part_of_the_model_trains_alone(name, shape):
    check(CASES[name], SHAPES[shape])


def test_an_explicit_mesh_with_the_model_first():
    check(CASES["two_way"], names=("model", AXIS), kind=AxisType.Explicit)


@pytest.mark.slow
def test_several_axes_of_workers():
    check(CASES["two_way"], (2, 2, 2), (*PAIR, "model"), PAIR)


def test_several_axes_of_the_model():
    specs = {"columns": P("a", "b"), "rows": P(("b", "a")), "whole": P("b")}
    state = check(CASES["two_way"], (2, 2, 2), (AXIS, "a", "b"), specs=specs)
    found = eo.state_specs(state, param_specs=specs).exchange.error
    assert found == {
        "columns": P(AXIS, ("a", "b")), "rows": P(AXIS, ("b", "a")),
        "whole": P(AXIS, "b")}


def test_parameters_that_are_one_array():
    mesh = mesh_of()
    # A raw key has their shape, but is not like them.
    key = jax.random.PRNGKey(0)
    tx = eo.over_workers(
        optax.chain(eo.majority_vote(AXIS, tie="random", key=key), optax.trace(0.5)),
        mesh, param_specs=P("model"))
    state = tx.init(jnp.zeros(2))
    assert jax.tree.map(lambda x: x.sharding.spec, state[1].trace) == P("model")
    assert all(x.sharding.spec == P() for x in jax.tree.leaves(state[0]))
    updates, _ = tx.update(jnp.array([[1.0, -1.0], [2.0, -3.0]]), state)
    chex.assert_trees_all_equal(updates, jnp.array([1.0, -1.0]))


def test_a_nan_in_one_part_stops_all_parts():
    mesh = mesh_of()
    tx = eo.over_workers(CASES["two_way"](AXIS), mesh, param_specs=SPECS)
    grads = jax.tree.map(lambda g: g[0], gradients(1, PARAMS, 2))
    _, state = tx.update(grads, tx.init(PARAMS), PARAMS)
    bad = grads | {"columns": grads["columns"].at[1, 0, 3].set(jnp.nan)}
    updates, after = tx.update(bad, state, PARAMS)
    assert all(jnp.isnan(x).all() for x in jax.tree.leaves(updates))
    assert_same(after._replace(count=state.count), state)


# what is refused


def over(tx, specs, mesh=None):
    return eo.over_workers(tx, mesh or mesh_of(), param_specs=specs)


@pytest.mark.parametrize("specs, error, message", [
    (None, ValueError, r"has 'model', 'workers'.*param_specs.*name none"),
    ({"a": P()}, ValueError, r"has 'model', 'workers'.*param_specs.*name none"),
    ({"a": P("tensor")}, ValueError, r"param_specs.*name 'tensor'"),
])
def test_layouts_that_cannot_be_are_refused(specs, error, message):
    with pytest.raises(error, match=message):
        over(eo.majority_vote(AXIS), specs)


def test_specs_of_another_tree_are_refused():
    tx = over(eo.majority_vote(AXIS), {"a": P("model")})
    for call in (
        lambda: tx.init({"b": jnp.zeros(2)}),
        lambda: tx.update({"b": jnp.zeros((2, 2))}, optax.EmptyState()),
    ):
        with pytest.raises(ValueError):  # by jax.tree.map
            call()


def one_step(tx):
    grads = jax.tree.map(lambda g: g[0], gradients(1, PARAMS, 2))
    return jax.eval_shape(lambda g: tx.update(g, tx.init(PARAMS), PARAMS), grads)


def test_what_looks_at_the_whole_tree_is_refused():
    for tx in (
        eo.error_feedback(eo.scaled_sign(per="tree"), axis_name=AXIS),
        optax.chain(eo.majority_vote(AXIS), optax.clip_by_global_norm(1.0)),
    ):
        with pytest.raises(ValueError, match=r"differ along 'model'.*\['whole'\].*"
                           "per='leaf'"):
            one_step(over(tx, SPECS))


def test_state_that_is_not_like_the_parameters_is_refused():
    norm = optax.GradientTransformation(
        lambda params: jnp.zeros(()),
        lambda u, s, params=None: (u, optax.tree.norm(u).astype(jnp.float32)))
    with pytest.raises(ValueError, match=r"state differ along 'model'.*outside of"):
        one_step(over(optax.chain(eo.majority_vote(AXIS), norm), SPECS))
