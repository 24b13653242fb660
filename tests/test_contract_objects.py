"""What transformations leave with others: Flax, Orbax, the caller's key.

And what a compressor is as a Python object.
"""

import copy

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint
import pytest
from contract import CASES, COMPRESSORS, KEYED, every
from contract_tools import (
    PARAMS,
    SMALL,
    assert_same,
    gradients,
    quick_compilation,  # noqa: F401
)
from flax import nnx
from flax.training.train_state import TrainState

import ef_optax as eo

pytestmark = pytest.mark.filterwarnings("ignore:No contraction is known")

GRADS = gradients(0)


@every(compiles=True)
def test_it_trains_a_train_state(case):
    case.needs("train_state")
    tx = case.make()
    state = TrainState.create(apply_fn=None, params=SMALL, tx=tx)
    grads = gradients(0, SMALL)
    state = state.apply_gradients(grads=grads)
    updates, after = tx.update(grads, tx.init(SMALL), SMALL)
    assert_same(state.params, optax.apply_updates(SMALL, updates))
    assert_same(state.opt_state, after)


class Model(nnx.Module):
    def __init__(self):
        self.half = nnx.Param(SMALL["half"])
        self.matrix = nnx.Param(SMALL["matrix"])
        self.steps = nnx.Variable(jnp.zeros((), jnp.int32))


@every(compiles=True)
def test_it_trains_an_nnx_module(case):
    tx, model = case.make(), Model()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = tx.init(SMALL)
    for seed in range(2):
        grads = gradients(seed, SMALL)
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        updates, state = tx.update(grads, state, params, **case.extra)
        model_grads = nnx.state(Model(), nnx.Param)
        nnx.replace_by_pure_dict(model_grads, grads)
        optimizer.update(model, model_grads, **case.extra)
        assert_same(
            nnx.to_pure_dict(nnx.state(model, nnx.Param)),
            optax.apply_updates(params, updates))


def test_all_states_survive_a_checkpoint(tmp_path):
    # Orbax refuses empty arrays, so these are the small parameters.
    grads = gradients(0, SMALL)
    kept, abstract = {}, {}
    for name, case in CASES.items():
        tx = case.make()
        kept[name] = tx.init(SMALL)
        if case.light:
            kept[name] = tx.update(grads, kept[name], SMALL, **case.extra)[1]
        abstract[name] = jax.eval_shape(tx.init, SMALL)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", kept)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", abstract)
    for name in CASES:
        assert_same(restored[name], kept[name])


@pytest.mark.parametrize("kind", [jax.random.key, jax.random.PRNGKey])
@pytest.mark.parametrize("name", [*KEYED, "compress_stochastic_sign"])
def test_the_key_of_the_caller_survives_donation(name, kind):
    key = kind(1)

    def make():
        inner = name.removeprefix("compress_")
        case = CASES[inner]
        tx = case._replace(kwargs=case.kwargs | {"key": key}).make()
        if not isinstance(tx, eo.Compressor):
            return tx
        return eo.error_feedback(tx) if inner == name else eo.compress(tx)

    tx = make()
    update = jax.jit(tx.update, donate_argnums=1)
    state = tx.init(SMALL)
    for _ in range(2):
        _, state = update(SMALL, state)
    assert not key.is_deleted()
    assert_same(make().init(SMALL), tx.init(SMALL))


# Compressors.


@every(COMPRESSORS)
def test_a_compressor_does_what_its_messages_say(case):
    compressor, one = case.make(), eo.Workers(None)
    for c in (compressor, compressor.contractive):
        state = c.init(PARAMS)
        message, shared, after = c.encode(GRADS, state, one)
        result = c.decode(message, shared), after
        assert_same(c.roundtrip(GRADS, state), result)
        assert_same(c.update(GRADS, state), result)
    # The way over an exchange is another, also for one worker.
    direct = eo.compress(compressor)
    expected, _ = direct.update(GRADS, direct.init(PARAMS))
    for exchange in (eo.gather(), *[eo.all_reduce()] * compressor.additive):
        tx = eo.compress(compressor, exchange=exchange)
        assert_same(tx.update(GRADS, tx.init(PARAMS))[0], expected)


@every(COMPRESSORS)
def test_a_compressor_stays_whole_or_refuses(case):
    compressor = case.make()
    assert isinstance(compressor, eo.Compressor)
    # Or inject_hyperparams would call it as a schedule.
    assert not callable(compressor)
    assert case.factory.__name__ in repr(compressor)
    for same in (
        copy.copy(compressor), *copy.deepcopy([compressor]),
        optax.with_extra_args_support(compressor),
        # As a leaf of a tree of transformations, such as that of optax.partition.
        jax.tree.map(
            lambda c: c, {"it": compressor},
            is_leaf=lambda x: isinstance(x, optax.GradientTransformation))["it"],
    ):
        assert same is compressor
    for change in (
        lambda: compressor._replace(init=compressor.init),
        lambda: compressor._make(compressor),
        lambda: jax.tree.map(lambda function: function, compressor),
    ):
        with pytest.raises(TypeError):
            change()
