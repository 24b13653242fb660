"""Workers, and what belongs to one: gradients, state, leaves that are averaged."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ef_optax as eo

AXIS = "workers"
PAIR = ("hosts", "devices")
MODES = ["vmap", "pmap", "shard_map", "pair, vmap", "pair, shard_map"]
COUNT = 4


def mesh_of(*names):
    shape = (2, 2) if len(names) == 2 else (COUNT,)
    return jax.make_mesh(shape, names, devices=jax.devices()[:COUNT],
                         axis_types=(AxisType.Auto,) * len(names))


def over_workers(make, mode):
    """Maps make(axis), of (params, what each worker has), over four workers.

    Parameters are the same on all workers, and typed so; results [workers, ...].
    """
    axis = PAIR if "pair" in mode else AXIS
    step = make(axis)
    if mode == "vmap":
        return jax.jit(jax.vmap(step, (None, 0), axis_name=AXIS))
    if mode == "pmap":
        return jax.pmap(step, AXIS, in_axes=(None, 0), devices=jax.devices()[:COUNT])
    if mode == "pair, vmap":
        nested = jax.vmap(jax.vmap(step, (None, 0), axis_name=PAIR[1]), (None, 0),
                          axis_name=PAIR[0])
        split = functools.partial(jax.tree.map, lambda x: x.reshape(2, 2, *x.shape[1:]))
        merge = functools.partial(jax.tree.map, lambda x: x.reshape(4, *x.shape[2:]))
        return jax.jit(lambda params, own: merge(nested(params, split(own))))
    workers = eo.Workers(axis)

    def one(params, own):
        out = step(params, jax.tree.map(lambda x: x[0], own))
        return jax.tree.map(lambda x: x[None], workers.varying(out))

    names = axis if axis is PAIR else (AXIS,)
    return jax.jit(jax.shard_map(one, mesh=mesh_of(*names), in_specs=(P(), P(names)),
                                 out_specs=P(names), check_vma=True))


# collectives


@pytest.mark.parametrize("mode", MODES)
def test_collectives_are_numpys_for_a_tree_of_many_dtypes(mode):
    rng = np.random.default_rng(0)
    own = {
        "f": rng.integers(-9, 9, (4, 3, 2)).astype(np.float32),
        "s": rng.integers(-9, 9, (4,)).astype(np.float32),
        "h": jnp.asarray(rng.integers(-9, 9, (4, 5)), jnp.bfloat16),
        "i": rng.integers(-9, 9, (4, 2)).astype(np.int8),
        "u": rng.integers(0, 60_000, (4, 2)).astype(np.uint16),
        "z": np.zeros((4, 0), np.float32),
    }
    flags = {"p": np.array([[True], [False], [True], [True]])}

    def make(axis):
        def step(_, own):
            workers = eo.Workers(axis)
            tree, flags = own
            assert workers.size == 4 and not workers.is_one
            floats = {n: tree[n] for n in "fsh"}
            return (workers.index, workers.sum({n: tree[n] for n in "fshiz"}),
                    workers.max(tree), workers.mean(floats),
                    workers.all_gather((tree, flags)))

        return step

    found = over_workers(make, mode)(0.0, (own, flags))
    index, total, largest, mean, gathered = jax.tree.map(np.asarray, found)
    np.testing.assert_array_equal(index, range(4))
    for i in range(4):
        for tree, reduce in ((total, np.sum), (largest, np.max), (mean, np.mean)):
            for n, x in tree.items():
                expected = reduce(np.asarray(own[n], np.float64), 0) if x.size else []
                assert x.dtype == own[n].dtype
                np.testing.assert_array_equal(x[i].astype(np.float64).ravel(),
                                              np.asarray(expected, x.dtype).ravel())
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x, i=i: x[i], gathered), (own, flags))


def test_one_worker_is_alone():
    workers = eo.Workers(None)
    tree = {"a": jnp.arange(3.0), "b": jnp.array(2.0, jnp.bfloat16)}
    assert (workers.size, workers.index, workers.is_one) == (1, 0, True)
    for same in (workers.sum, workers.max, workers.mean, workers.varying):
        chex.assert_trees_all_equal(same(tree), tree)
    chex.assert_trees_all_equal(
        workers.all_gather(tree), jax.tree.map(lambda x: x[None], tree))


def test_leaves_split_over_another_mesh_axis_stay_so():
    def step(both, one):
        mean = eo.Workers(AXIS).mean({"both": both[0], "one": one[0]})
        return mean["both"], mean["one"]

    both, one = np.arange(12.0).reshape(2, 6), np.arange(6.0).reshape(2, 3)
    run = jax.jit(jax.shard_map(
        step, mesh=mesh_of(AXIS, "model"), in_specs=(P(AXIS, "model"), P(AXIS)),
        out_specs=(P("model"), P())))
    chex.assert_trees_all_equal(run(both, one), (both.mean(0), one.mean(0)))


# names of axes


@pytest.mark.parametrize("axis", [0, b"workers", ("hosts", 1)])
def test_an_axis_is_none_a_string_or_a_tuple_of_strings(axis):
    for make in (
        eo.majority_vote,
        lambda a: eo.error_feedback(eo.scaled_sign(), axis_name=a),
    ):
        with pytest.raises((TypeError, NameError, ValueError)):
            make(axis).update(jnp.ones(3), make(AXIS).init(jnp.ones(3)))


TRANSFORMATIONS = {
    "error_feedback": lambda a: eo.error_feedback(eo.scaled_sign(), axis_name=a),
    "compress": lambda a: eo.compress(eo.identity(), axis_name=a),
    "majority_vote": eo.majority_vote,
    "vote_sum": eo.vote_sum,
    "local": lambda a: eo.local(optax.trace(0.9), a),
    "exempt": lambda a: eo.exempt(
        eo.compress(eo.scaled_sign(), axis_name=a), {"w": True, "b": False}, a),
}
PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize("axis", [AXIS, PAIR])
def test_an_axis_that_is_not_bound_is_named_at_update_not_at_init(axis):
    for make in TRANSFORMATIONS.values():
        tx = make(axis)
        state = tx.init(PARAMS)
        with pytest.raises(NameError, match=r"is not bound here.*shard_map"):
            tx.update(PARAMS, state)
    for call in (lambda: eo.Workers(axis).size, lambda: eo.Workers(axis).sum(PARAMS),
                 lambda: eo.Workers(axis).all_gather(PARAMS),
                 lambda: eo.local_value_and_grad(jnp.sum, axis)(1.0)):
        with pytest.raises(NameError):
            call()


# local gradients, and the trap


def loss(params, own):
    x, y = own
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def data():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(4, 5, 2)).astype(np.float32),
            rng.normal(size=(4, 5, 3)).astype(np.float32))


def numpy_gradients(own):
    """Those of each worker, at parameters of ones."""
    x, y = (np.asarray(a, np.float64) for a in own)
    rest = 2 * (x @ np.ones((2, 3)) + 1 - y) / y[0].size
    return {"w": np.swapaxes(x, 1, 2) @ rest, "b": rest.sum(1)}


@pytest.mark.parametrize("mode", MODES)
def test_local_value_and_grad_gives_each_workers_own_gradient(mode):
    def make(axis):
        grad = functools.partial(eo.local_value_and_grad, axis_name=axis)

        def with_aux(scale, params, own):
            value = scale * loss(params, own)
            return value, {"twice": 2 * value}

        def step(params, own):
            plain = grad(loss)(params, own)
            aux = grad(with_aux, has_aux=True, argnums=(1, 0))(3.0, params, own)
            last = grad(with_aux, argnums=-2, has_aux=True)(1.0, params, own)[1]
            return plain, aux, last, grad(loss)(params, own=own)[1]

        return step

    own = data()
    expected = numpy_gradients(own)
    value = np.array([loss(PARAMS, (x, y)) for x, y in zip(*own, strict=True)])
    near = functools.partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)
    found = over_workers(make, mode)(PARAMS, own)
    plain, ((thrice, aux), (by_params, by_scale)), last, named = found
    near(plain, (value, expected))
    near((thrice, aux, by_scale), (3 * value, {"twice": 6 * value}, value))
    near(by_params, jax.tree.map(lambda g: 3 * g, expected))
    near((last, named), (expected, expected))


def test_one_worker_without_an_axis_has_jaxs_own_gradient():
    own = jax.tree.map(lambda x: x[0], data())
    chex.assert_trees_all_equal(
        eo.local_value_and_grad(loss, None)(PARAMS, own),
        jax.value_and_grad(loss)(PARAMS, own))


def under_shard_map(step, axis=AXIS, out_specs=None):
    names = axis if axis is PAIR else (axis,)
    return jax.shard_map(
        lambda own: step(jax.tree.map(lambda x: x[0], own)), mesh=mesh_of(*names),
        in_specs=P(names), out_specs=P() if out_specs is None else out_specs)


def test_plain_gradients_in_shard_map_are_sums_over_the_workers():
    summed = jax.jit(under_shard_map(lambda own: jax.grad(loss)(PARAMS, own)))(data())
    expected = jax.tree.map(lambda g: g.sum(0), numpy_gradients(data()))
    chex.assert_trees_all_close(summed, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [AXIS, PAIR])
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_gradients_that_are_already_summed_are_refused(name, axis):
    tx = TRANSFORMATIONS[name](axis)

    def step(own):
        return tx.update(jax.grad(loss)(PARAMS, own), tx.init(PARAMS))[0]

    with pytest.raises(ValueError, match=rf"^{name}: .*local_value_and_grad"):
        jax.eval_shape(under_shard_map(step, axis), data())


def test_momentum_before_the_vote_does_not_hide_summed_gradients():
    tx = eo.signum(0.1, axis_name=AXIS)
    with pytest.raises(ValueError, match=r"^local: .*already summed"):
        jax.eval_shape(under_shard_map(
            lambda own: tx.update(jax.grad(loss)(PARAMS, own), tx.init(PARAMS))[0]),
            data())


@pytest.mark.parametrize("axis", [AXIS, PAIR])
def test_some_unvarying_gradients_are_listed_until_they_are_cast(axis):
    def step(own, names, cast=lambda x: x):
        # "w" is the same everywhere; over two axes, the same within a host.
        host = jax.lax.axis_index("hosts") if axis is PAIR else 0
        w = cast(jnp.ones((2, 3)) * (1 + host))
        grads = eo.local_value_and_grad(loss, axis)(PARAMS, own)[1] | {"w": w}
        txs = [TRANSFORMATIONS[name](axis) for name in names]
        updates = [tx.update(grads, tx.init(PARAMS))[0]["w"] for tx in txs]
        return [u[None] for u in eo.Workers(axis).varying(updates)]

    for name in TRANSFORMATIONS:
        with pytest.raises(ValueError, match=rf"^{name}: .*jax.lax.pcast") as e:
            jax.eval_shape(under_shard_map(
                functools.partial(step, names=[name]), axis), data())
        assert "['w']" in str(e.value) and "['b']" not in str(e.value)
    admitted = functools.partial(
        step, names=TRANSFORMATIONS, cast=eo.Workers(axis).varying)
    found = jax.jit(under_shard_map(admitted, axis, out_specs=P(axis)))(data())
    every = dict(zip(TRANSFORMATIONS, found, strict=True))
    own = np.array([1, 1, 2, 2] if axis is PAIR else [1, 1, 1, 1])
    expected = dict.fromkeys(TRANSFORMATIONS, own.mean()) | {
        "local": own[:, None, None], "majority_vote": 1, "vote_sum": 4}
    for name, value in expected.items():
        np.testing.assert_array_equal(every[name], np.broadcast_to(value, (4, 2, 3)))


def test_an_unused_parameter_has_a_local_gradient_of_zero():
    def step(own):
        params = PARAMS | {"unused": jnp.ones(2)}
        grads = eo.local_value_and_grad(loss, AXIS)(params, own)[1]
        tx = eo.ef_sign_sgd(0.1, axis_name=AXIS)
        return tx.update(grads, tx.init(params))[0]["unused"]

    jax.eval_shape(under_shard_map(step), data())


# state of one worker


def test_local_state_is_each_workers_own_under_scan():
    def make(axis):
        tx = eo.local(optax.trace(0.5), axis)

        def step(params, own):
            state, updates = jax.lax.scan(
                lambda s, g: tx.update(g, s)[::-1], tx.init(params), own)
            assert isinstance(state, eo.LocalState)
            return updates, state.inner.trace

        return step

    own = np.random.default_rng(0).integers(-8, 9, (4, 3, 5)).astype(np.float32)
    momentum = [own[:, 0]]
    for t in (1, 2):
        momentum.append(0.5 * momentum[-1] + own[:, t])
    for mode in MODES:
        chex.assert_trees_all_equal(
            over_workers(make, mode)(jnp.zeros(5), own),
            (np.stack(momentum, 1), momentum[-1]))
    alone = eo.local(optax.trace(0.5))
    assert isinstance(alone.init(jnp.zeros(5)), optax.TraceState)


def test_per_worker_state_is_declared():
    assert eo.ErrorFeedbackState.per_worker == ("error",)
    assert eo.LocalState.per_worker == ("inner",)


# leaves that skip compression


def vectors(tree):
    return jax.tree.map(lambda x: jnp.ndim(x) < 2, tree)


@pytest.mark.parametrize("mode", MODES)
def test_masked_lets_replicas_drift_apart_and_exempt_does_not(mode):
    rng = np.random.default_rng(0)
    own = {"w": rng.normal(size=(4, 2, 3)).astype(np.float32),
           "b": rng.normal(size=(4, 3)).astype(np.float32),
           "h": jnp.asarray([256, 1, 1, 2], jnp.bfloat16)}
    params = PARAMS | {"h": jnp.zeros((), jnp.bfloat16)}

    def make(axis):
        ef = eo.error_feedback(eo.scaled_sign(), axis_name=axis)
        txs = {
            "masked": optax.masked(ef, {"w": True, "b": False, "h": False}),
            "exempt": eo.exempt(ef, vectors, axis),
            "exempt a tree": eo.exempt(ef, {"w": False, "b": True, "h": True}, axis),
            "exempt nothing": eo.exempt(ef, False, axis),
            "mean": eo.compress(eo.identity(), axis_name=axis),
            "plain": ef,
        }
        return lambda p, g: {n: tx.update(g, tx.init(p), p)[0] for n, tx in txs.items()}

    found = jax.tree.map(np.asarray, over_workers(make, mode)(params, own))
    # Nobody says a word: each worker applies its own.
    np.testing.assert_array_equal(found["masked"]["b"], own["b"])
    mean = own["b"].astype(np.float64).mean(0)
    within = 4 * np.spacing(np.abs(own["b"]).max())
    for name in ("exempt", "exempt a tree", "mean"):
        b, h = found[name]["b"], found[name]["h"]
        assert len({copy.tobytes() for copy in b}) == 1
        np.testing.assert_allclose(b[0], mean, 0, within)
        # In bfloat16 256 + 1 is 256, and the mean would be 64.5.
        assert h.dtype == jnp.bfloat16 and (h == 65).all()
    for name in ("masked", "exempt", "exempt a tree"):
        np.testing.assert_array_equal(found[name]["w"], found["plain"]["w"])
    chex.assert_trees_all_equal(found["exempt nothing"], found["plain"])


@pytest.mark.parametrize("mode", ["vmap", "shard_map"])
def test_exempt_leaves_skip_compression_and_nothing_else_of_the_optimizer(mode):
    # Of a quadratic; where they ascended, the loss grew.
    def make(axis):
        tx = eo.ef_sgd(0.25, eo.exempt(eo.scaled_sign(), vectors), axis_name=axis,
                       momentum=0.5, weight_decay=0.5)

        def step(params, own):
            state, out = tx.init(params), []
            for _ in range(2):
                updates, state = tx.update(own, state, params)
                out.append(updates)
            return out, state[-1].inner.inner_state.error

        return step

    own = {"w": jnp.ones((4, 2, 3)), "b": jnp.arange(12.0).reshape(4, 3)}
    (first, second), error = over_workers(make, mode)(PARAMS, own)
    slope = own["b"].mean(0) + 0.5  # with decay, at parameters of ones
    np.testing.assert_allclose(first["b"][0], -0.25 * slope, rtol=1e-6)
    np.testing.assert_allclose(second["b"][0], -0.25 * 1.5 * slope, rtol=1e-6)
    # No error is kept of them.
    assert jax.tree.leaves(error)[0].shape == (4, 2, 3)
    assert len(jax.tree.leaves(error)) == 1


def test_exempt_around_a_whole_optimizer_is_refused():
    for tx in (eo.ef_sign_sgd(0.1), eo.signum(0.1), optax.sgd(0.1),
               eo.skip_nonfinite(eo.ef_sgd(0.1, eo.top_k(k=1)))):
        with pytest.raises(TypeError, match=r"ef_sgd\(learning_rate, exempt\("):
            eo.exempt(tx, vectors).init(PARAMS)
    eo.exempt(eo.majority_vote(None), vectors).init(PARAMS)


def test_exempt_leaves_of_all_workers_at_once_are_refused():
    tx = eo.exempt(eo.error_feedback(eo.scaled_sign()), True)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), PARAMS)
    with pytest.raises(ValueError, match=r"leading worker axis"):
        tx.update(stacked, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("compressor", [
    eo.identity(), eo.top_k(k=1), eo.top_k(k=1, per="tree"), eo.random_k(k=1),
    eo.k_pca(1), eo.cast(jnp.bfloat16), eo.scaled_sign(),
    eo.scaled_sign("tree"), eo.stochastic_sign(),
], ids=repr)
def test_all_leaves_may_be_exempt(compressor):
    def make(axis):
        tx = eo.exempt(eo.error_feedback(compressor, axis_name=axis), True, axis)
        return lambda p, g: tx.update(g, tx.init(p), p)[0]

    found = over_workers(make, "vmap")(jnp.zeros(2), jnp.arange(8.0).reshape(4, 2))
    np.testing.assert_array_equal(found, np.broadcast_to([3.0, 4.0], (4, 2)))
