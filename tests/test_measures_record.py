"""Norms of errors found in states, and the transformation that records measures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ef_optax import measures
from ef_optax.compressors import scaled_sign, top_k
from ef_optax.feedback import ErrorFeedbackState, error_feedback


def feedback(axis_name=None):
    return error_feedback(scaled_sign(), axis_name=axis_name)


def types(tree):
    return jax.tree.map(lambda x: (x.shape, jnp.dtype(x.dtype)), tree)


PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(4)}


def gradients(seed, like=PARAMS):
    keys = jax.random.split(jax.random.key(seed), len(jax.tree.leaves(like)))
    return jax.tree.unflatten(
        jax.tree.structure(like),
        [
            jax.random.normal(k, x.shape).astype(x.dtype)
            for k, x in zip(keys, jax.tree.leaves(like), strict=True)
        ],
    )


# error_norm


def state_of(*errors):
    return tuple(kept(e) for e in errors)


def kept(error, compressor=(), exchange=()):
    return ErrorFeedbackState(error, compressor, exchange, jnp.zeros((), jnp.int32))


def test_error_norm_is_over_every_error_in_the_state():
    inside = kept(jnp.array([2.0]))
    outer = kept({"a": jnp.array([4.0]), "n": None}, inside, (inside,))
    state = (optax.EmptyState(), {"x": (outer, jnp.full(3, 100.0))}, inside)
    assert measures.error_norm(state) == np.sqrt(np.float32(16 + 3 * 4))
    assert measures.error_norm(inside) == 2
    assert jax.jit(measures.error_norm)(inside) == 2


def test_error_norm_keeps_its_range_and_precision():
    large, small = state_of(jnp.full(4, 1e30)), state_of(jnp.full(4, 1e-30))
    np.testing.assert_allclose(measures.error_norm(large), 2e30, rtol=1e-6)
    np.testing.assert_allclose(measures.error_norm(small), 2e-30, rtol=1e-6)
    half = state_of(jnp.full(70_000, 2.0, jnp.float16))
    assert measures.error_norm(half).dtype == jnp.float32
    np.testing.assert_allclose(measures.error_norm(half), 2 * 70_000**0.5, rtol=1e-5)
    assert measures.error_norm(state_of({}, jnp.zeros((0,)))) == 0
    assert jnp.isinf(measures.error_norm(state_of(jnp.array([1.0, jnp.inf]))))
    assert jnp.isnan(measures.error_norm(state_of(jnp.array([1.0, jnp.nan]))))


def test_error_norm_refuses_a_state_without_errors():
    for state in (optax.adam(0.1).init(PARAMS), (), jnp.ones(2)):
        with pytest.raises(ValueError, match=r"error_norm .*holds error_feedback"):
            measures.error_norm(state)


@pytest.mark.parametrize("wrap", ["chain", "masked", "partition", "steps", "inject"])
def test_error_norm_finds_errors_in_optax_wrappers(wrap):
    tx = {
        "chain": optax.chain(optax.trace(0.9), feedback()),
        "masked": optax.masked(feedback(), {"w": True, "b": False}),
        "partition": optax.partition(
            {"x": feedback(), "y": optax.sgd(0.1)}, {"w": "x", "b": "y"}
        ),
        "steps": optax.MultiSteps(feedback(), 1),
        "inject": optax.inject_hyperparams(
            lambda lr: optax.chain(optax.scale(lr), feedback())
        )(0.5),
    }[wrap]
    state = tx.init(PARAMS)
    assert measures.error_norm(state) == 0
    _, state = tx.update(gradients(0), state, PARAMS)
    assert measures.error_norm(state) > 0


# record_measures


def test_it_passes_updates_and_records_their_density():
    tx = measures.record_measures()
    state = tx.init(PARAMS)
    assert state.corrected_density is None and state.error_norm is None
    for i in range(3):
        g = gradients(i)
        out, state = tx.update(g, state)
        assert jax.tree.all(jax.tree.map(lambda a, b: a is b, out, g))
        assert state.density == measures.density(g)
    assert state.count == 3


def test_around_error_feedback_it_records_what_lemma_8_needs():
    tx, plain = measures.record_measures(feedback()), feedback()
    state, other = tx.init(jnp.zeros(50)), plain.init(jnp.zeros(50))
    for i in range(5):
        g = jax.random.normal(jax.random.key(i), (50,))
        p, before = g + other.error, state
        wanted, other = plain.update(g, other)
        out, state = tx.update(g, state)
        np.testing.assert_array_equal(out, wanted)
        assert state.density == measures.density(g)
        assert state.corrected_density == measures.density(p)
        assert state.error_norm == measures.error_norm(other)
        # ‖e‖² = (1 − φ(p)) ‖p‖²
        expected = (1 - state.corrected_density) * jnp.sum(p**2)
        np.testing.assert_allclose(state.error_norm**2, expected, rtol=1e-4)
    assert types(before) == types(state)
    assert measures.error_norm(state) == state.error_norm  # seen through it


def test_around_a_chain_it_records_no_corrected_density():
    tx = measures.record_measures(optax.chain(optax.scale(-0.1), feedback()))
    state = tx.init(PARAMS)
    _, state = tx.update(gradients(1), state, PARAMS, value=1.0)
    assert state.corrected_density is None
    assert state.density == measures.density(gradients(1))
    assert state.error_norm == measures.error_norm(state.inner) > 0


def test_inside_error_feedback_it_sees_what_is_compressed():
    """With any decay and learning rate, for one worker."""
    seen = optax.chain(measures.record_measures(), top_k(k=3))
    tx = error_feedback(seen, decay=0.5, learning_rate=0.1)
    state = tx.init(jnp.zeros(20))
    for i in range(4):
        g = jax.random.normal(jax.random.key(i), (20,))
        p = g + 0.5 * state.error / 0.1
        _, state = tx.update(g, state)
        np.testing.assert_allclose(
            state.compressor[0].density, measures.density(p), rtol=1e-5
        )


def test_it_refuses_an_inner_transformation_without_errors():
    tx = measures.record_measures(optax.adam(0.1))
    with pytest.raises(ValueError, match="holds error_feedback"):
        tx.update(gradients(0), tx.init(PARAMS))
    tx = measures.record_measures()
    with pytest.raises(ValueError, match=r"\['n'\].*optax.masked"):
        tx.update({"n": jnp.arange(3)}, tx.init(PARAMS))


MAKERS = {
    "alone": measures.record_measures,
    "feedback": lambda: measures.record_measures(feedback()),
    "chain": lambda: optax.chain(
        measures.record_measures(),
        optax.scale_by_learning_rate(0.1),
        measures.record_measures(feedback()),
    ),
    "masked": lambda: optax.masked(
        measures.record_measures(feedback()), {"w": True, "b": False}
    ),
    "partition": lambda: optax.partition(
        {"x": measures.record_measures(feedback()), "y": measures.record_measures()},
        {"w": "x", "b": "y"},
    ),
}


@pytest.mark.parametrize(
    ("maker", "dtype"),
    [("chain", jnp.bfloat16), *(
        pytest.param(name, jnp.float32, marks=() if name == "feedback" else
                     pytest.mark.slow) for name in MAKERS)],
)
def test_it_is_a_good_citizen(maker, dtype):
    """Types stay, under jit, scan, vmap, eval_shape and donation."""
    tx = MAKERS[maker]()
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    state = tx.init(params)
    assert types(jax.eval_shape(tx.init, params)) == types(state)
    assert types(tx.init(shapes)) == types(state)
    assert jax.tree.structure(
        optax.tree.map_params(tx, lambda x: x, state)
    ) == jax.tree.structure(state)

    updates, eager = tx.update(gradients(0, params), state, params)
    assert types(eager) == types(state) and types(updates) == types(params)

    traces = []

    def step(state, g):
        traces.append(1)
        return tx.update(g, state, params)[::-1]

    jitted = jax.jit(step, donate_argnums=0)
    held = state
    for i in range(3):
        held, _ = jitted(held, gradients(i, params))
    assert len(traces) == 1
    stacked = jax.tree.map(
        lambda *x: jnp.stack(x), *[gradients(i, params) for i in range(3)]
    )
    scanned, _ = jax.lax.scan(step, tx.init(params), stacked)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.float32(a), np.float32(b), rtol=2e-2, atol=1e-2
        ),
        scanned,
        held,
    )
    many = jax.vmap(lambda g: tx.update(g, tx.init(params), params)[1])(stacked)
    found = [
        x for x in jax.tree.leaves(many, is_leaf=is_record) if is_record(x)
    ]
    assert found and all(x.density.shape == (3,) for x in found)
    assert all(jnp.all((0 < x.density) & (x.density <= 1)) for x in found)


def is_record(node):
    return isinstance(node, measures.MeasuresState)


def test_masked_and_missing_leaves_are_not_measured():
    tx = optax.masked(measures.record_measures(feedback()), {"w": True, "b": False})
    g = gradients(0)
    _, state = tx.update(g, tx.init(PARAMS))
    assert state.inner_state.density == measures.density(g["w"])
    assert state.inner_state.corrected_density == measures.density(g["w"])
    tx = measures.record_measures()
    _, state = tx.update({"w": g["w"], "b": None}, tx.init({"w": g["w"], "b": None}))
    assert state.density == measures.density(g["w"])


def test_values_are_found_by_name_and_recover_from_nan():
    tx = optax.chain(optax.scale(2.0), measures.record_measures(), optax.sgd(0.1))
    state = tx.init(PARAMS)
    assert optax.tree.get(state, "density") == 0
    bad = jax.tree.map(lambda x: x + jnp.nan, PARAMS)
    _, state = tx.update(bad, state)
    assert jnp.isnan(optax.tree.get(state, "density"))
    _, state = tx.update(gradients(0), state)
    np.testing.assert_allclose(
        optax.tree.get(state, "density"), measures.density(gradients(0)), rtol=1e-6
    )


def test_with_an_axis_name_it_keeps_means_over_the_workers():
    grads = jax.random.normal(jax.random.key(0), (4, 3, 20))  # step, worker, d
    tx = measures.record_measures(feedback("i"), axis_name="i")
    start = tx.init(jnp.zeros(20))

    def run(g):
        return jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], start, g)[0]

    state = jax.vmap(run, in_axes=1, axis_name="i")(grads)
    own = [measures.density(g) for g in grads[-1]]
    np.testing.assert_allclose(state.density, [np.mean(own)] * 3, rtol=1e-6)
    norms = jnp.linalg.norm(state.inner.error, axis=1)
    np.testing.assert_allclose(state.error_norm, [jnp.mean(norms)] * 3, rtol=1e-6)
    assert len(set(np.asarray(norms).tolist())) == 3
    alone = measures.record_measures(axis_name="i")
    with pytest.raises(NameError, match="unbound axis name: i"):
        alone.update(grads[0, 0], alone.init(jnp.zeros(20)))


def test_inside_shard_map_with_types():
    """A replicated state, from local gradients, through scan, with check_vma."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,))
    grads = jax.random.normal(jax.random.key(0), (4, 1, 20))
    tx = measures.record_measures(feedback("i"), axis_name="i")

    def run(g):
        state, _ = jax.lax.scan(
            lambda s, g: tx.update(g[0], s)[::-1], tx.init(jnp.zeros(20)), g
        )
        seen, _ = jax.lax.scan(
            lambda s, g: (measures.welford_update(s, g[0]), None),
            measures.welford_init(g[0, 0]),
            g,
        )
        return state._replace(inner=None), measures.welford_finalize(seen)

    mapped = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=P(None, "i"),
        out_specs=(P(), P("i")),
        check_vma=True,
    )
    state, (mean, variance) = jax.jit(mapped)(grads)
    np.testing.assert_allclose(state.density, measures.density(grads[-1]), rtol=1e-6)
    assert state.error_norm > 0
    np.testing.assert_allclose(mean, grads[:, 0].mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, grads[:, 0].var(0, ddof=1), rtol=1e-4)
