"""Bad input is refused where it is given, with what was given and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ef_optax as eo

X = jnp.ones(4)
TREE = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
NAN = float("nan")


def over_workers(tx, gradients):
    return jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="w")(gradients)


def refused(error, words, call):
    """A case: `call` raises `error` with all of `words` in its message."""
    return pytest.param(error, words, call, id=", ".join(words))


def feedback(**kwargs):
    return eo.error_feedback(eo.scaled_sign(), **kwargs)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        # How much is kept.
        refused(ValueError, ["k must be at least 1", "got 0"], lambda: eo.top_k(k=0)),
        refused(ValueError, ["k must be", "got -3"], lambda: eo.random_k(k=-3)),
        refused(ValueError, ["rank must be at least 1", "0"], lambda: eo.k_pca(0)),
        *(refused(ValueError, ["fraction must be in (0, 1]", f"got {f}"],
                  lambda f=f, make=make: make(fraction=f))
          for make in (eo.top_k, eo.random_k) for f in (0.0, -0.1, 1.5)),
        refused(ValueError, ["one of k and fraction", "k=None"], eo.top_k),
        refused(ValueError, ["one of k and fraction", "k=2 and fraction=0.5"],
                lambda: eo.random_k(k=2, fraction=0.5)),
        # Choices by name, which would mean a default.
        refused(ValueError, ["per", "'leaf', 'tree'", "'layer'"],
                lambda: eo.top_k(k=1, per="layer")),
        refused(ValueError, ["per", "'leaf', 'tree'", "'block'"],
                lambda: eo.scaled_sign("block")),
        refused(ValueError, ["per", "at least 1", "got 0"], lambda: eo.scaled_sign(0)),
        refused(ValueError, ["zero", "None, 'zero', 'positive', 'random'",
                             "'negative'"], lambda: eo.sign("negative")),
        refused(ValueError, ["zero", "got 0"], lambda: eo.ef_sign_sgd(0.1, zero=0)),
        refused(ValueError, ["zero", "'abstain', 'positive', 'random'", "'zero'"],
                lambda: eo.majority_vote("w", zero="zero")),
        refused(ValueError, ["tie", "'zero', 'positive', 'random'", "'up'"],
                lambda: eo.majority_vote("w", tie="up")),
        refused(ValueError, ["wire", "'psum', 'packed'", "'bits'"],
                lambda: eo.sign_sgd(0.1, wire="bits")),
        refused(ValueError, ["momentum", "'ema', 'heavy_ball'", "'polyak'"],
                lambda: eo.signum(0.1, momentum="polyak")),
        # Keys.
        *(refused(ValueError, [name, "needs a key", "all workers"], call)
          for name, call in (
            ("tie='random'", lambda: eo.majority_vote("w", tie="random")),
            ("zero='random' and tie='random'",
             lambda: eo.sign_sgd(0.1, zero="random", tie="random")),
            ("zero='random'", lambda: eo.scaled_sign(zero="random")),
            ("noise", lambda: eo.sign_sgd(0.1, noise=1.0)),
            ("key", lambda: eo.random_k(1, key=None)))),
        # Numbers.
        *(refused(ValueError, ["decay must be in [0, 1]", f"got {b}"],
                  lambda b=b: feedback(decay=b)) for b in (-0.1, 1.1, NAN)),
        refused(ValueError, ["decay", "2."], lambda: feedback(decay=jnp.array(2.0))),
        refused(ValueError, ["quorum=3", "the 2 workers on axis 'w'", "at most 2"],
                lambda: over_workers(eo.sign_sgd(0.1, axis_name="w", quorum=3),
                                     jnp.ones((2, 3)))),
        refused(ValueError, ["every", "2.5"],
                lambda: eo.accumulate(feedback(), every=2.5)),
        # Dtypes.
        refused(ValueError, ["scaled_sign", "floating-point", "[1]: int32",
                             "optax.masked"],
                lambda: eo.scaled_sign().update([X, jnp.arange(3)], ())),
        refused(ValueError, ["error_feedback", "['b']: complex64"],
                lambda: feedback().update({"b": X.astype(jnp.complex64)},
                                          feedback().init({"b": X}))),
        refused(ValueError, ["compress needs", "int32"],
                lambda: eo.compress(eo.sign()).update(
                    [jnp.arange(3)], eo.compress(eo.sign()).init([X]))),
        refused(ValueError, ["majority_vote", "int32"],
                lambda: over_workers(eo.majority_vote("w"), [jnp.ones((2, 3), int)])),
        # Trees.
        refused(ValueError, ["error_feedback", "['b']: (3,) for (2,)"],
                lambda: feedback().update({**TREE, "b": jnp.ones(3)},
                                          feedback().init(TREE))),
        refused(ValueError, ["the only leaf: (2, 4) for (4,)",
                             "leading worker axis", "over_workers"],
                lambda: feedback().update(jnp.ones((2, 4)), feedback().init(X))),
        refused(ValueError, ["the only leaf: (4,) for (2, 4)",
                             "leading worker axis", "jax.pmap"],
                lambda: feedback().update(X, feedback().init(jnp.ones((2, 4))))),
        # What stands where.
        *(refused(TypeError, ["axis_name='w'", "needs a compressor", "scaled_sign()",
                              "identity()"],
                  lambda tx=tx: eo.error_feedback(tx, axis_name="w"))
          for tx in (optax.clip(0.1), eo.majority_vote("w"), eo.vote_sum("w"))),
        *(refused(ValueError, ["all_reduce() sums", name, "exchange=gather()"],
                  lambda c=c: eo.compress(
                      c, axis_name="w", exchange=eo.all_reduce()).init(X))
          for c, name in ((eo.scaled_sign(), "scaled_sign"), (eo.top_k(k=1), "top_k"),
                          (eo.cast("bfloat16"), "cast(bfloat16)"))),
        refused(TypeError, ["compressor cannot be changed", "build another"],
                lambda: eo.top_k(k=1)._replace(init=None)),
        # Workers.
        refused(NameError, ["axis_name='w' is not bound", "jax.shard_map",
                            "axis_name=None for one worker"],
                lambda: feedback(axis_name="w").update(X, feedback().init(X))),
    ],
)
def test_refused_with_what_was_given_and_what_to_do(error, words, call):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(("error", "call"), [
    # What JAX and Python refuse themselves.
    (TypeError, lambda: eo.top_k(k=2.5)), (TypeError, lambda: eo.top_k(0.01)),
    (ValueError, lambda: eo.top_k(fraction=lambda step: 0.1)),
    (ValueError, lambda: eo.top_k(fraction=NAN)),
    (ValueError, lambda: eo.cast("int8")), (TypeError, lambda: eo.cast("floaty")),
    (ValueError, lambda: feedback(accumulator_dtype="int32")),
    (AttributeError, lambda: eo.random_k(1, key=1.5)),
    (AttributeError, lambda: eo.error_feedback(eo.scaled_sign)),
    (AttributeError, lambda: eo.compress(eo.top_k).init(X)),
    (AttributeError, lambda: feedback(axis_name="w", exchange="gather").init(X)),
    (AttributeError, lambda: feedback(axis_name="w", exchange=eo.gather).init(X)),
    (ValueError, lambda: feedback().update({"w": X}, feedback().init({"b": X}))),
    (TypeError, lambda: feedback().update({"a": "words"}, feedback().init({"a": X}))),
    (TypeError, lambda: eo.accept_if_lower(eo.sign_sgd(0.1)).update(X, None, X)),
    (TypeError, lambda: eo.accept_if_lower(eo.sign_sgd(0.1)).update(
        X, eo.accept_if_lower(eo.sign_sgd(0.1)).init(X), X, value_fn=lambda x: x)),
    (TypeError, lambda: jax.jit(lambda k: eo.top_k(k).init(X))(2)),
    (ValueError, lambda: jax.jit(lambda f: eo.random_k(fraction=f).init(X))(0.5)),
])
def test_what_jax_and_python_refuse_themselves(error, call):
    with pytest.raises(error):
        call()


def test_a_compressor_is_no_function_or_it_would_be_taken_for_a_schedule():
    assert not callable(eo.top_k(k=1)) and not callable(eo.gather())


@pytest.mark.parametrize("make", [eo.top_k, eo.random_k])
def test_numpy_leaves_pass_under_jit(make):
    x, tx = np.arange(8, dtype=np.float32), make(k=2)
    jax.jit(lambda state: tx.update(x, state))(tx.init(x))


def test_python_floats_are_leaves_as_in_optax():
    for tx in (eo.ef_sign_sgd(0.5), eo.sign_sgd(0.5), eo.scaled_sign_sgd(0.5)):
        updates, _ = tx.update({"a": 2.0}, tx.init({"a": 1.0}))
        assert updates["a"] in (-0.5, -1.0)


def test_traced_values_pass():
    def one(value):
        txs = [
            feedback(decay=value),
            feedback(learning_rate=value),
            eo.ef_sign_sgd(value, decay=value, momentum=value, weight_decay=value),
            eo.signum(value, value, threshold=value, quorum=value, noise=value, key=0,
                      weight_decay=value, warmup_steps=value),
        ]
        return [tx.update(X, tx.init(X), X)[0] for tx in txs]

    assert np.isfinite(jax.jit(one)(jnp.array(0.5))).all()
    jax.jit(one)(jnp.array(-0.5))  # out of range, but nobody can know


def test_injected_hyperparameters_pass_and_act():
    make = optax.inject_hyperparams(eo.ef_sign_sgd, static_args=("per",))
    tx = make(learning_rate=0.5, decay=0.0)
    state = tx.init(X)
    state.hyperparams["learning_rate"] = jnp.array(0.25)
    np.testing.assert_array_equal(tx.update(X, state)[0], -0.25 * X)
    tx = optax.inject_hyperparams(eo.majority_vote, static_args=("axis_name",))(
        None, threshold=2.0)
    np.testing.assert_array_equal(tx.update(X, tx.init(X))[0], 0 * X)
