"""Inside other people's trainers: what works, and what is told that does not."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from contract_tools import compilations, quick_compilation  # noqa: F401
from flax import nnx
from flax.training.dynamic_scale import DynamicScale
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo

AXIS = "workers"
COUNT = 4
PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.ones(3)}
GRADS = jax.tree.map(
    lambda x: jnp.stack([x * i for i in range(1, COUNT + 1)]), PARAMS)
EF = eo.ef_sign_sgd(0.1, axis_name=AXIS)
LABELS = {"w": "sent", "b": "rest"}


def over(tx):
    return eo.over_workers(tx, eo.worker_mesh(COUNT))


def step(tx, params=PARAMS):
    return tx.update(GRADS, tx.init(params), params)


# Wrappers in the wrong place.


@pytest.mark.parametrize(("tx", "remedy"), [
    (optax.MultiSteps(over(EF), 2), r"inside: over_workers\(optax\.flatten"),
    (optax.flatten(over(EF)), r"inside: over_workers\(optax\.flatten"),
    (over(optax.MultiSteps(EF, 2).gradient_transformation()), "ef_optax.accumulate"),
    (over(optax.masked(EF, {"w": True, "b": False})), "ef_optax.exempt"),
    (over(optax.partition({"sent": EF, "rest": optax.sgd(0.1)}, LABELS)),
     r"compress\(identity\(\), axis_name='workers'\)"),
    (over(optax.partition({"sent": EF, "rest": optax.set_to_zero()}, LABELS)),
     r"optax\.masked\(optax\.set_to_zero\(\), frozen\)"),
])
def test_what_stands_in_the_wrong_place_is_told_where_it_belongs(tx, remedy):
    with pytest.raises(ValueError, match=remedy):
        step(tx)


def test_what_is_told_works():
    mean = jax.tree.map(lambda g: g.mean(0), GRADS)
    send = eo.compress(eo.identity(), axis_name=AXIS)
    rest = optax.chain(send, optax.sgd(0.5))
    for tx, wanted in (
        (over(optax.flatten(EF)), None),
        (over(eo.accumulate(EF, 2, AXIS)), 0 * mean["b"]),
        (over(optax.partition({"sent": EF, "rest": rest}, LABELS)), -0.5 * mean["b"]),
        (over(optax.chain(EF, optax.masked(
            optax.set_to_zero(), {"w": False, "b": True}))), 0 * mean["b"]),
    ):
        updates, _ = step(tx)
        assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, PARAMS)
        if wanted is not None:
            np.testing.assert_allclose(updates["b"], wanted, rtol=1e-6)


def test_lookahead_belongs_outside():
    params = optax.LookaheadParams.init_synced(PARAMS)
    with pytest.raises(ValueError, match=r"optax\.lookahead\(over_workers\("):
        step(over(optax.lookahead(EF, 5, 0.5)), params)
    updates, _ = step(optax.lookahead(over(EF), 5, 0.5), params)
    assert updates.fast["w"].shape == PARAMS["w"].shape


def test_apply_if_finite_is_told_of_skip_nonfinite():
    with pytest.raises(TypeError) as caught:
        step(over(optax.apply_if_finite(EF, 5)))
    assert "ef_optax.skip_nonfinite" in "".join(caught.value.__notes__)


def test_a_module_with_functions_in_it_is_told_of_filter():
    with pytest.raises(TypeError, match=r"\['act'\].*eqx\.filter"):
        over(EF).init(PARAMS | {"act": jax.nn.relu})


# Placement.


def test_parameters_split_over_the_workers_are_refused_where_it_can_be_seen():
    mesh, tx = eo.worker_mesh(COUNT), over(EF)
    split = jax.device_put(PARAMS, {"w": NamedSharding(mesh, P(AXIS)),
                                    "b": NamedSharding(mesh, P())})
    for call in (lambda: tx.init(split),
                 lambda: tx.update(GRADS, tx.init(PARAMS), split)):
        with pytest.raises(ValueError, match=r"\['w'\].*device_put.*param_specs"):
            call()


def test_a_state_that_jit_replicates_is_seen_in_the_report():
    mesh, tx = eo.worker_mesh(COUNT), over(EF)
    state = tx.init(PARAMS)
    everywhere = NamedSharding(mesh, P())
    specs = jax.tree.map(functools.partial(NamedSharding, mesh), eo.state_specs(state))
    reports = [
        eo.wire_report(
            jax.jit(tx.update, out_shardings=(everywhere, out)), GRADS, state, PARAMS,
            parameters=PARAMS)
        for out in (specs, everywhere)
    ]
    right, wrong = (report.bits_per_parameter for report in reports)
    assert wrong > right + 32  # the errors cross in float32
    # JAX 0.12 gives such collectives a source, 0.10 does not.
    if not all(c.source for c in reports[1].collectives):
        assert "resharding by the compiler" in str(reports[1])
    assert "resharding by the compiler" not in str(reports[0])


def test_nnx_compiles_its_step_once_if_all_of_it_is_placed():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 2, rngs=rngs)

    mesh = eo.worker_mesh(COUNT)
    everywhere = NamedSharding(mesh, P())
    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, over(EF), wrt=nnx.Param)
    nnx.update(model, jax.device_put(nnx.state(model), everywhere))
    optimizer.step[...] = jax.device_put(optimizer.step[...], everywhere)

    @nnx.jit
    def train(model, optimizer, x):
        def loss(model, x):
            return jnp.mean(model.linear(x) ** 2)

        local = nnx.vmap(nnx.grad(loss), in_axes=(None, 0))
        optimizer.update(model, local(model, x))

    x = jax.device_put(jnp.ones((COUNT, 5, 3)), NamedSharding(mesh, P(AXIS)))
    jax.block_until_ready(train(model, optimizer, x))
    with compilations() as programs:
        train(model, optimizer, x)
        jax.block_until_ready(nnx.state(model))
    assert not programs


# Checkpoints and loss scaling.


def test_a_checkpoint_of_npz_keeps_bfloat16_if_it_is_viewed_as_such(tmp_path):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    tx = over(eo.ef_sgd(
        0.1, eo.top_k(k=2), axis_name=AXIS, accumulator_dtype=jnp.bfloat16))
    grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), GRADS)
    _, state = tx.update(grads, tx.init(params), params)
    leaves, tree = jax.tree.flatten(jax.device_get(state))
    np.savez(tmp_path / "checkpoint.npz", *leaves)
    with np.load(tmp_path / "checkpoint.npz") as file:
        stored = list(file.values())
    with pytest.raises(TypeError, match=r"bfloat16.*view"):
        eo.resize_workers(tree.unflatten(stored), 2)
    like = jax.tree.leaves(jax.eval_shape(tx.init, params))
    restored = tree.unflatten(
        [x.view(y.dtype) for x, y in zip(stored, like, strict=True)])
    error = eo.resize_workers(restored, 2)[-1].error["w"]
    assert error.dtype == ml_dtypes.bfloat16 and error.shape == (2, 4, 3)
    np.testing.assert_allclose(
        np.float32(error).mean(0), np.float32(state[-1].error["w"]).mean(0), rtol=1e-2)


def test_flax_loss_scaling_keeps_replicas_alike():
    # Without axis_name, or it would average the gradients; the scale is agreed on, and
    # skip_nonfinite takes the place of the selection after it.
    tx = eo.skip_nonfinite(EF)

    def loss(params, x):
        return jnp.sum(params["w"] * x) + jnp.sum(params["b"])

    def train(scale, params, state, x):
        scale, _, _, grads = scale.value_and_grad(loss)(params, x)
        scale = jax.tree.map(lambda s: jax.lax.pmin(s, AXIS), scale)
        updates, state = tx.update(grads, state, params)
        return scale, optax.apply_updates(params, updates), state

    go = jax.vmap(train, axis_name=AXIS)
    replicas = jax.tree.map(lambda x: jnp.stack([x] * 2), (DynamicScale(), PARAMS))
    state = jax.vmap(tx.init, axis_name=AXIS)(replicas[1])
    x = jnp.ones((2, 4, 3)).at[1, 0, 0].set(3e38)  # overflows on one worker only
    scale, params, after = go(*replicas, state, x)
    np.testing.assert_array_equal(scale.scale, [65536 / 2] * 2)
    jax.tree.map(np.testing.assert_array_equal, params, replicas[1])
    np.testing.assert_array_equal(after.total, [1, 1])
    _, params, _ = go(scale, params, after, jnp.ones((2, 4, 3)))
    for leaf in jax.tree.leaves(params):
        np.testing.assert_array_equal(leaf[0], leaf[1])
        assert not np.array_equal(leaf[0], np.ones_like(leaf[0]))


def test_state_of_pmap_with_out_axes_none_reads_as_one_workers():
    # As in Flax's imagenet example: it trains right, and a checkpoint of it holds the
    # error of one worker. The way out is out_axes=0 for the state.
    devices = jax.devices()[:2]
    grads = jax.tree.map(lambda g: g[:2], GRADS)

    def train(params, grads):
        return EF.update(grads, EF.init(params))[1][-1].error["w"]

    errors = [
        np.asarray(jax.pmap(train, AXIS, in_axes=(None, 0), out_axes=out,
                            devices=devices)(PARAMS, grads)) for out in (None, 0)]
    assert errors[0].shape == (4, 3) and errors[1].shape == (2, 4, 3)
