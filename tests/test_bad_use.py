"""What newcomers do: a state of something else, an axis forgotten, a wrong wrapper."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import ef_optax as eo
from ef_optax.compressors import Template

AXIS = "workers"
TREE = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
STACKED = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), TREE)  # of two workers
WEIGHTS = {"w": False, "b": True}


def feedback(compressor=None, **kwargs):
    return eo.error_feedback(compressor or eo.scaled_sign(), **kwargs)


def by_vmap(tx, state=None):
    def one(grads):
        return tx.update(grads, tx.init(grads) if state is None else state, grads)[0]

    return jax.vmap(one, axis_name=AXIS)(STACKED)


def by_shard_map(step, out_spec=None):
    return jax.jit(jax.shard_map(
        step, mesh=eo.worker_mesh(2), in_specs=P(AXIS), out_specs=P(out_spec),
    ))(STACKED)


def assert_refused(call, error, *words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


# States.

TRANSFORMATIONS = {
    "error_feedback": feedback(),
    "compress": eo.compress(eo.top_k(k=1)),
    "exempt": eo.exempt(feedback(), WEIGHTS),
    "accumulate": eo.accumulate(feedback(), 2),
    "skip_nonfinite": eo.skip_nonfinite(eo.sign_sgd(0.1)),
    "accept_if_lower": eo.accept_if_lower(eo.sign_sgd(0.1)),
    "record_measures": eo.measures.record_measures(feedback()),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("state", ["of adam", "forgotten", "params", "plain dict"])
def test_a_state_of_something_else_is_refused_here_or_by_python(name, state):
    tx = TRANSFORMATIONS[name]
    own = tx.init(TREE)
    given = {"of adam": optax.scale_by_adam().init(TREE), "forgotten": None,
             "params": TREE, "plain dict": own._asdict()}[state]
    with pytest.raises((AttributeError, TypeError)):
        tx.update(TREE, given, TREE, value_fn=lambda x: 0.0)


def test_a_state_from_which_the_error_would_be_dropped_is_refused():
    tx = eo.compress(eo.top_k(k=1))
    assert_refused(lambda: tx.update(TREE, feedback().init(TREE)), TypeError,
                   "compress needs the CompressState", "ErrorFeedbackState",
                   "tree of init")


@pytest.mark.parametrize("exchange, other, needed", [
    (eo.two_way(workers=2), None, "two_way() needs"),
    (None, eo.two_way(workers=2), "gather() needs"),
])
def test_a_state_of_another_exchange_is_refused(exchange, other, needed):
    state = feedback(axis_name=AXIS, exchange=other).init(TREE)
    assert_refused(lambda: by_vmap(feedback(axis_name=AXIS, exchange=exchange), state),
                   TypeError, needed, "TwoWayState", "EmptyState")


def test_a_checkpoint_restored_without_its_types_is_refused():
    state = [eo.over_workers(feedback(axis_name=AXIS), eo.worker_mesh(2)).init(TREE)]
    plain = {"step": 3, "opt": [state[0]._asdict()]}
    for function in (lambda s: eo.resize_workers(s, 3), eo.state_specs):
        function(state)
        assert_refused(lambda f=function: f(plain), TypeError, "ErrorFeedbackState",
                       "'compressor'", "jax.eval_shape(tx.init")
    assert eo.state_specs({"error": jnp.ones(2)}) == {"error": P()}


# Gradients and parameters.


@pytest.mark.parametrize("tx", [
    eo.sign_sgd(0.1), eo.signum(0.1), eo.compress(eo.scaled_sign()), eo.top_k(k=1),
    eo.local(optax.trace(0.9)),
])
def test_gradients_of_all_workers_at_once_are_not_broadcast_into_the_parameters(tx):
    state = tx.init(TREE)
    assert_refused(lambda: tx.update(STACKED, state, TREE), ValueError,
                   "['b']: (2, 2) for (2,)", "leading worker axis",
                   "ef_optax.over_workers")
    tx.update(TREE, state, TREE)
    tx.update(TREE, state)
    none = {"w": TREE["w"], "b": None}
    tx.update(none, tx.init(none), none)


def test_the_names_of_a_large_tree_and_its_values_do_not_fill_the_screen():
    many = {f"layer{i}": jnp.ones(4) for i in range(100)}
    tx = feedback()
    for call in (lambda: tx.update(
                     {n: x[None] for n, x in many.items()}, tx.init(many)),
                 lambda: eo.exempt(tx, many).init(TREE)):
        with pytest.raises((TypeError, ValueError)) as caught:
            call()
        assert len(str(caught.value)) < 500


def test_numpy_float64_does_not_warn():
    params = {"w": np.ones((2, 2))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tx in (feedback(), eo.accumulate(feedback(), 2)):
            updates, _ = tx.update(params, tx.init(params))
            assert updates["w"].dtype == jnp.float32


def test_a_mask_of_no_booleans_is_refused():
    for mask, word in (
        ("b", "got 'b'"), (["b"], "got 'b'"), (lambda tree: {"w": 1, "b": 0}, "got 0"),
        (jax.tree.map(lambda x: x > 0, TREE), "got Array"),
    ):
        assert_refused(lambda m=mask: eo.exempt(feedback(), m).init(TREE), TypeError,
                       "exempt: mask must", word)
    with pytest.raises(ValueError):  # by jax.tree.map
        eo.exempt(feedback(), {"w": True}).init(TREE)
    eo.exempt(feedback(), {"w": np.bool_(True), "b": False}).init(TREE)


# Wrappers.


@pytest.mark.parametrize("wrap", [
    lambda tx: eo.exempt(tx, WEIGHTS), lambda tx: eo.local(tx, AXIS),
    lambda tx: eo.accumulate(tx, 2), eo.skip_nonfinite, eo.measures.record_measures,
    lambda tx: eo.over_workers(tx, eo.worker_mesh(2)),
])
def test_what_is_no_transformation_is_refused_where_it_is_wrapped(wrap):
    for tx in (eo.sign_sgd, optax.constant_schedule(0.1)):
        with pytest.raises((AttributeError, TypeError)):
            wrap(tx)


@pytest.mark.parametrize("inner", [
    optax.chain(optax.clip(1.0), eo.majority_vote(AXIS)),
    eo.compress(eo.top_k(k=1), axis_name=AXIS),
    *(pytest.param(tx, marks=pytest.mark.slow) for tx in (
        eo.majority_vote(AXIS, wire="packed"),
        eo.compress(eo.scaled_sign(), axis_name=AXIS, exchange=eo.two_way()))),
    eo.exempt(feedback(axis_name=AXIS), WEIGHTS, AXIS),
    eo.ef_sign_sgd(0.1, axis_name=AXIS),
])
def test_error_feedback_around_an_exchange_is_refused(inner):
    assert_refused(lambda: by_vmap(feedback(inner)), TypeError,
                   "error_feedback cannot hold an exchange",
                   "Give error_feedback the compressor")
    by_vmap(inner)
    by_vmap(feedback(optax.chain(eo.measures.record_measures(axis_name=AXIS),
                                 eo.top_k(k=1))))


def test_over_workers_inside_another_map_is_refused():
    tx = eo.over_workers(eo.sign_sgd(0.1, axis_name=AXIS), eo.worker_mesh(2))
    words = "under plain jax.jit", f"'{AXIS}' is bound here", "was given to it"
    assert_refused(lambda: by_vmap(tx), ValueError, *words)
    assert_refused(lambda: by_shard_map(tx.init), ValueError, *words)
    assert_refused(lambda: by_shard_map(lambda g: tx.update(g, ())), ValueError, *words)


# Axes.


def test_another_axis_than_the_one_that_is_bound_is_named():
    tx = eo.sign_sgd(0.1, axis_name="worker")
    assert_refused(lambda: by_shard_map(lambda g: tx.update(g, tx.init(g))[0]),
                   NameError, "axis_name='worker' is not bound here",
                   "plain jax.jit use ef_optax.over_workers")
    with pytest.raises(NameError, match=r"is not bound here\. Call update"):
        jax.pmap(lambda g: tx.update(g, tx.init(g)))(STACKED)


@pytest.mark.parametrize("make", [
    lambda axis: feedback(axis_name=axis),
    lambda axis: eo.compress(eo.top_k(k=1), axis_name=axis),
    lambda axis: eo.majority_vote(axis),
    lambda axis: eo.exempt(feedback(axis_name=AXIS), WEIGHTS, axis),
])
def test_an_axis_forgotten_where_types_tell_warns_at_the_line_of_the_user(make):
    def run(tx):
        by_shard_map(lambda g: tx.update(g, tx.init(g), g)[0], AXIS)

    with pytest.warns(UserWarning, match=r"axis_name is None.*"
                      r"Pass axis_name='workers'") as caught:
        run(optax.chain(make(None)))
    assert {w.filename for w in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(make(AXIS))
        make(None).init(TREE)


def test_gradients_that_were_averaged_or_come_from_multi_steps_are_told_what_to_do():
    tx = optax.MultiSteps(feedback(axis_name=AXIS), 2)
    assert_refused(lambda: by_shard_map(lambda g: tx.update(g, tx.init(STACKED))[0]),
                   ValueError, "already summed", "local_value_and_grad",
                   "do not average", "ef_optax.accumulate in place of")


def test_arguments_by_name_only_are_refused_as_jax_does():
    with pytest.raises(TypeError, match="positional arguments"):
        eo.local_value_and_grad(lambda x: x, None)(x=jnp.array(1.0))


# Compressors of one's own.


def own(encode=None, decode=None, **kwargs):
    return eo.Compressor(
        "own", encode=encode or (lambda u, s, workers: (u, Template.of(u), s)),
        decode=decode or (lambda m, template: m), contraction=lambda params: 1.0,
        **kwargs)


def test_a_compressor_that_cannot_work_fails():
    two = own(lambda u, s, workers: (u, s))
    flat = own(decode=lambda m, template: jax.tree.map(jnp.ravel, m))
    for tx in (feedback(two), eo.compress(two, axis_name=AXIS), feedback(flat)):
        with pytest.raises((TypeError, ValueError)):
            by_vmap(tx)
