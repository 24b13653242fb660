"""What a small mistake would change: limits, equal numbers, draws, one bad worker.

Most of these tests were written for a mutant that no other test noticed (mutants.py).
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_tools import quick_compilation  # noqa: F401
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from ef_optax._numerics import all_finite

AXIS = "workers"
PAIR = ("hosts", "devices")
MOST = np.finfo(np.float32).max


def first(tx, grads):
    """Returns what a new state makes of gradients, and the state after it."""
    return jax.jit(tx.update)(grads, jax.jit(tx.init)(grads))


def over(tx):
    """Does the same for gradients [workers, ...]."""
    return jax.jit(jax.vmap(
        lambda g: tx.update(g, tx.init(g)), axis_name=AXIS))


# means


RANK_ONE = np.float32([np.outer([1, 2, 3], [1, 0, 1]), np.outer([0, 1, 1], [2, 1, 0])])


@pytest.mark.parametrize(("compressor", "exchange", "grads"), [
    (eo.identity(), eo.all_reduce(), np.float32([[1, 2], [3, 0]])),
    (eo.identity(), eo.gather(), np.float32([[1, 2], [3, 0]])),
    (eo.scaled_sign(), None, np.ones((10, 3), np.float32)),  # decoded in a loop
    (eo.top_k(k=1), None, np.float32([[1, 0], [3, 0]])),  # the same position
    (eo.k_pca(1), None, RANK_ONE),
], ids=repr)
def test_messages_are_averaged_over_the_workers(compressor, exchange, grads):
    tx = eo.compress(compressor, axis_name=AXIS, exchange=exchange)
    mean = np.broadcast_to(grads.mean(0), grads.shape)
    np.testing.assert_allclose(over(tx)(grads)[0], mean, atol=1e-6)


@pytest.mark.parametrize("exchange", [eo.all_reduce(), eo.gather()], ids=repr)
def test_an_error_is_what_is_missing_in_a_workers_own_message(exchange):
    tx = eo.error_feedback(eo.random_k(k=2, key=0), axis_name=AXIS, exchange=exchange)
    grads = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    updates, state = over(tx)(grads)
    kept = np.asarray(updates) == 0
    np.testing.assert_array_equal(state.error, np.where(kept, grads, 0))


def test_the_order_of_two_axes_is_that_of_their_names():
    workers = eo.Workers(PAIR)
    gathered = jax.vmap(jax.vmap(
        lambda _: (workers.index, workers.all_gather(workers.index)),
        axis_name="devices"), axis_name="hosts")(jnp.zeros((2, 3)))
    np.testing.assert_array_equal(np.ravel(gathered[0]), np.arange(6))
    np.testing.assert_array_equal(gathered[1][0, 0], np.arange(6))


# numbers near a limit


def test_an_error_far_below_0_stays_within_its_bound():
    tx = eo.error_feedback(eo.top_k(k=1), accumulator_dtype=jnp.float16)
    _, state = first(tx, jnp.full(3, -9e4))
    np.testing.assert_array_equal(state.error, [0, -65504, -65504])


@pytest.mark.parametrize("per", ["leaf", "tree", 4])
def test_scales_of_large_numbers_are_too_small_and_not_infinite(per):
    x = {"a": jnp.full(4, -3e38), "b": jnp.full(4, 3e38)}
    updates, _ = first(eo.scaled_sign(per), x)
    scale = MOST / (8 if per == "tree" else 4)
    np.testing.assert_allclose(updates["a"], np.full(4, -scale), rtol=1e-6)
    np.testing.assert_allclose(updates["b"], np.full(4, scale), rtol=1e-6)


def test_scales_of_16_bit_numbers_are_summed_in_32():
    x = jnp.full(100, 1000, jnp.float16)  # whose sum is beyond 65,504
    np.testing.assert_array_equal(first(eo.scaled_sign(), x)[0], x)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_the_norm_needs_no_squares_that_fit(size):
    updates, _ = first(eo.stochastic_sign(0), jnp.float32([3 * size, 4 * size]))
    np.testing.assert_allclose(np.abs(updates), 5 * size, rtol=1e-6)


def test_a_corrected_update_that_could_overflow_is_not_taken():
    tx = eo.error_feedback(eo.identity())
    x = jnp.ones(3)
    state = tx.init(x)._replace(error=jnp.full(3, 3e38))
    updates, after = tx.update(x, state)
    assert np.isnan(updates).all()
    np.testing.assert_array_equal(after.error, state.error)


def test_the_sum_of_one_number_over_the_workers_could_overflow():
    updates, _ = over(eo.compress(eo.identity(), axis_name=AXIS))(jnp.full(2, 2e38))
    assert np.isnan(updates).all()


def test_two_16_bit_messages_are_averaged_in_32_bits():
    updates, _ = over(eo.compress(eo.cast(jnp.bfloat16), axis_name=AXIS))(
        jnp.float32([[256], [1]]))
    np.testing.assert_array_equal(updates, [[128.5], [128.5]])


def test_a_contraction_is_that_of_the_worst_leaf_or_of_the_tree():
    x = [jnp.ones(3), jnp.ones(5)]
    assert eo.scaled_sign(4).contraction(x) == 1 / 4
    assert eo.scaled_sign(9).contraction(x) == 1 / 5
    assert eo.scaled_sign("tree").contraction(x) == 1 / 8
    assert eo.top_k(k=2).contraction(x) == 2 / 5
    assert eo.top_k(k=2, per="tree").contraction(x) == 2 / 8


def test_decoded_leaves_have_their_own_scale_and_dtype():
    x = {"a": jnp.ones(3), "b": jnp.full(3, -2, jnp.bfloat16)}
    tx = eo.scaled_sign()
    message, shared, _ = tx.encode(x, tx.init(x), eo.Workers(None))
    chex.assert_trees_all_equal(tx.decode(message, shared), x)
    chex.assert_trees_all_equal_dtypes(tx.decode(message, shared), x)


def test_the_largest_are_those_of_the_largest_magnitude():
    updates, _ = first(eo.top_k(k=1), jnp.array([1.0, -2.0, 1.5]))
    np.testing.assert_array_equal(updates, [0, -2, 0])


# rates and decay


def test_at_rate_0_nothing_is_applied_and_an_error_does_not_decay():
    tx = eo.error_feedback(
        eo.top_k(k=1), decay=0.5, learning_rate=lambda count: 1.0 - count)
    g = jnp.array([3.0, 2.0])
    _, state = first(tx, g)
    np.testing.assert_array_equal(state.error, [0, 2])
    updates, state = tx.update(g, state)
    np.testing.assert_array_equal(updates, [0, 0])
    np.testing.assert_array_equal(state.error, [0, 2])


def test_nan_is_no_decay():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\]; got nan"):
        eo.error_feedback(eo.top_k(k=1), decay=float("nan"))


# draws


@pytest.mark.parametrize(
    "compressor", [eo.sign("random", key=0), eo.stochastic_sign(0)], ids=repr)
def test_fair_signs_are_new_for_every_leaf_and_step(compressor):
    x = jnp.zeros(100).at[0].set(1.0)
    one, state = first(compressor, [x, x])
    two, _ = compressor.update([x, x], state)
    drawn = {np.asarray(s[1:]).tobytes() for s in (*one, *two)}
    assert len(drawn) == 4


def test_a_server_has_other_keys_than_the_workers():
    tx = eo.compress(
        eo.stochastic_sign(0), axis_name=AXIS, exchange=eo.two_way())
    state = jax.vmap(tx.init, axis_name=AXIS)(jnp.ones((2, 4)))
    keys = [jax.random.key_data(s.key[0]) for s in
            (state.compressor, state.exchange.compressor)]
    assert (keys[0] != keys[1]).any()


def test_every_server_draws_signs_of_its_own():
    tx = eo.compress(
        eo.identity(), axis_name=AXIS, exchange=eo.two_way(eo.stochastic_sign(0)))
    updates, _ = over(tx)(jnp.ones((2, 200)).at[:, ::2].set(-1))
    rows = np.asarray(updates[0]).reshape(2, 100)
    assert (rows[0] != rows[1]).any()


def test_every_shard_of_every_worker_has_a_number_for_its_server_to_draw_by():
    workers = eo.Workers(AXIS)
    numbers = jax.vmap(
        lambda _: jnp.stack([workers.shard(j).index for j in range(3)]),
        axis_name=AXIS)(jnp.zeros(3))
    assert sorted(np.ravel(numbers)) == list(range(9))


def test_noise_is_of_another_key_than_votes():
    tx = eo.sign_sgd(0.1, zero="random", noise=0.5, key=0)
    vote, noise, _ = tx.init(jnp.zeros(3))
    vote, noise = map(jax.random.key_data, (vote.key, noise.rng_key))
    assert (vote != noise).any()


# servers


def test_a_server_uses_an_unbiased_compressor_damped():
    tx = eo.error_feedback(
        eo.identity(), axis_name=AXIS,
        exchange=eo.two_way(eo.random_k(k=1, scaled=True)))
    updates, state = over(tx)(jnp.ones((2, 8)))
    # One of four numbers in each row, as it is: times 4 the error would grow.
    assert set(np.unique(updates)) == {0, 1}
    assert set(np.unique(state.exchange.error)) == {0, 1}


# one bad worker or leaf


def assert_nan(updates):
    assert all(np.isnan(x).all() for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_one_bad_leaf_makes_all_nan_and_draws_nothing(bad):
    tx = eo.stochastic_sign(0)
    good = {"a": jnp.ones(3), "b": jnp.ones(3)}
    updates, state = first(tx, good)
    assert all(np.isfinite(x).all() for x in updates.values())
    spoilt, after = tx.update(good | {"b": good["b"].at[1].set(bad)}, state)
    assert_nan(spoilt)
    assert (state.count, after.count) == (1, 1)


@pytest.mark.parametrize("bad", [jnp.nan, -jnp.inf])
@pytest.mark.parametrize("compressor", [
    eo.stochastic_sign(0), eo.random_k(k=2, key=0)], ids=repr)
def test_compress_moves_no_key_where_one_worker_is_bad(compressor, bad):
    updates, state = over(eo.compress(compressor, axis_name=AXIS))(
        jnp.ones((2, 4)).at[1, 2].set(bad))
    assert_nan(updates)
    assert not state.compressor.count.any()


@pytest.mark.parametrize("leaf", ["exempt", "rest"])
def test_exempt_leaves_and_the_rest_know_of_each_others_nan(leaf):
    mask = {"exempt": True, "rest": False}
    tx = eo.error_feedback(eo.exempt(eo.scaled_sign(), mask), axis_name=AXIS)
    grads = {name: jnp.arange(8.0).reshape(2, 4) for name in mask}
    grads[leaf] = grads[leaf].at[1, 2].set(jnp.nan)
    updates, state = over(tx)(grads)
    assert_nan(updates)
    assert not state.inner.inner_state.error["rest"].any()


@pytest.mark.parametrize("wire", ["psum", "packed"])
def test_a_vote_sees_an_infinity(wire):
    grads = jnp.ones((3, 9)).at[1, 8].set(-jnp.inf)
    assert_nan(over(eo.majority_vote(AXIS, wire=wire))(grads)[0])


def test_a_packed_vote_sees_a_nan_in_either_of_two_kinds_of_leaves():
    # One that the model splits, and one that it does not: each has its own buffer.
    mesh = jax.make_mesh((2, 2), (AXIS, "model"), devices=jax.devices()[:4],
                         axis_types=(AxisType.Auto,) * 2)
    vote = eo.majority_vote(AXIS, wire="packed")
    specs = {"split": P(AXIS, "model"), "whole": P(AXIS)}
    run = jax.jit(jax.shard_map(
        lambda g: first(vote, g)[0], mesh=mesh, in_specs=(specs,),
        out_specs={"split": P(None, "model"), "whole": P()}))
    good = {"split": jnp.ones((2, 4)), "whole": jnp.ones((2, 3))}
    for name, g in good.items():
        assert_nan(run(good | {name: g.at[1, 0].set(jnp.nan)}))


def test_a_nan_is_found_elsewhere_too():
    # The arithmetic of accelerators, which a CPU uses where types say what is split.
    mesh = eo.worker_mesh(2, axis_type=AxisType.Explicit)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        x = jax.device_put(jnp.ones(4).at[2].set(bad), NamedSharding(mesh, P(AXIS)))
        assert not jax.jit(all_finite)(x)
        assert not jax.jit(lambda x: eo.Workers(None).all_summable(x))(x)
    assert jax.jit(all_finite)(jax.device_put(jnp.ones(4), x.sharding))


def test_local_momentum_recovers_from_a_nan():
    tx = eo.local(optax.trace(0.5))
    x = jnp.ones(2)
    _, state = first(tx, x)
    bad, after = tx.update(x.at[0].set(jnp.nan), state)
    assert_nan(bad)
    np.testing.assert_array_equal(after.trace, state.trace)


# what is refused


def test_an_exchange_of_one_leaf_of_two_is_refused_in_error_feedback():
    half = optax.stateless(lambda u, _: {"a": jax.lax.psum(u["a"], AXIS), "b": -u["b"]})
    with pytest.raises(TypeError, match="cannot hold an exchange"):
        over(eo.error_feedback(half))({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))})


def test_what_looks_at_other_workers_only_is_no_exchange_of_messages():
    def update(updates, state, params=None):
        return jax.tree.map(jnp.sign, updates), jax.lax.psum(updates, AXIS)

    looks = optax.GradientTransformation(lambda params: params, update)
    updates, state = over(eo.error_feedback(looks))(jnp.full((2, 3), 2.0))
    np.testing.assert_array_equal(updates, np.ones((2, 3)))
    np.testing.assert_array_equal(state.compressor, np.full((2, 3), 4.0))


def traced_over_the_pair(step):
    """Traces a step of (params, own numbers) over two axes, and compiles nothing."""
    mesh = jax.make_mesh((2, 2), PAIR, devices=jax.devices()[:4],
                         axis_types=(AxisType.Auto,) * 2)
    return jax.eval_shape(
        jax.shard_map(step, mesh=mesh, in_specs=(P(), P(PAIR)), out_specs=P()),
        jnp.ones(4), jnp.ones(4))


def test_gradients_that_were_summed_over_one_of_two_axes_are_refused():
    vote = eo.majority_vote(PAIR)
    with pytest.raises(ValueError, match="already summed"):
        traced_over_the_pair(lambda x, own: first(vote, jax.lax.psum(own, "hosts"))[0])


def test_argnums_may_be_negative_for_local_gradients():
    def step(x, own):
        grad = eo.local_value_and_grad(
            lambda own, x: jnp.sum(x * own[0]), PAIR, argnums=-1)(own, x)[1]
        return first(eo.majority_vote(PAIR), grad)[0]

    assert traced_over_the_pair(step).shape == (4,)


# wrappers


def test_option_2_does_not_take_a_step_to_an_equal_loss():
    tx = eo.accept_if_lower(optax.sgd(1.0))
    x = jnp.array(0.5)
    updates, state = tx.update(2 * x, tx.init(x), x, value_fn=jnp.square)
    assert not state.accepted and updates == 0


def test_option_2_gives_0_for_a_nan():
    tx = eo.accept_if_lower(optax.sgd(1.0))
    x = jnp.ones(2)
    updates, state = tx.update(x.at[0].set(jnp.nan), tx.init(x), x, value_fn=jnp.sum)
    assert not state.accepted
    np.testing.assert_array_equal(updates, [0, 0])


@pytest.mark.parametrize("sign", [1, -1])
def test_option_2_decides_by_the_mean_of_the_workers_losses(sign):
    tx = eo.accept_if_lower(optax.sgd(1.0), AXIS)
    x = jnp.array(0.0)

    def step(slope):  # from 0 to -1: worse for one worker
        return tx.update(jnp.array(1.0), tx.init(x), x, value_fn=lambda x: slope * x)

    _, state = jax.vmap(step, axis_name=AXIS)(sign * jnp.array([3.0, -1.0]))
    np.testing.assert_array_equal(state.accepted, [sign == 1] * 2)


def test_every_number_of_steps_is_rounded_up_and_all_of_them_are_averaged():
    tx = eo.accumulate(optax.identity(), every=lambda step: 2.5)
    state, out = tx.init(jnp.zeros(())), []
    for g in (1.0, 2.0, 6.0, 1.0):
        updates, state = tx.update(jnp.array(g), state)
        out.append(float(updates))
    assert out == [0, 0, 3, 0]


# meshes


def test_a_leaf_of_too_few_axes_is_not_split_as_its_parameter():
    specs = {"w": P(None, "model")}
    rows = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}  # a number for each row
    found = eo.state_specs(eo.LocalState(rows), param_specs=specs)
    assert found.inner["w"] == P(AXIS)
    whole = {"w": jax.ShapeDtypeStruct((2, 3, 4), jnp.float32)}
    found = eo.state_specs(eo.LocalState(whole), param_specs=specs)
    assert found.inner["w"] == P(AXIS, None, "model")


def test_a_servers_shards_are_split_as_the_parts_of_their_parameter():
    rows = {"w": jax.ShapeDtypeStruct((2, 6), jnp.float32)}  # of all parts, flat
    state = eo.TwoWayState(rows, optax.EmptyState(), jnp.zeros(1, jnp.int32))
    found = eo.state_specs(state, param_specs={"w": P(None, "model")})
    assert found.error["w"] == P(AXIS, ("model",))


def test_message_bits_are_those_of_one_worker_in_the_dtype_of_the_error():
    params = {"a": jnp.ones(10, jnp.bfloat16), "b": jnp.ones(3)}
    assert eo.message_bits(eo.identity(), params) == 13 * 32
    mask = {"a": False, "b": True}
    compressor = eo.exempt(eo.scaled_sign(), mask)  # two bytes and a scale
    assert eo.message_bits(compressor, params) == 16 + 32 + 3 * 32


def test_a_boolean_among_the_extra_arguments_is_not_traced():
    def update(updates, state, params=None, *, flip, **extra):
        return jax.tree.map(lambda u: -u if flip else u, updates), state

    flips = optax.GradientTransformationExtraArgs(lambda p: optax.EmptyState(), update)
    tx = eo.over_workers(
        optax.chain(eo.majority_vote(AXIS), flips), eo.worker_mesh(1))
    x = jnp.ones(2)
    for flip, wanted in ((True, -1), (False, 1)):
        updates, _ = tx.update(x[None], tx.init(x), x, flip=flip)
        np.testing.assert_array_equal(updates, [wanted] * 2)
