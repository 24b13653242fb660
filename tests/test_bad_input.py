"""Bad input is refused where it is given, with what was given and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ef_optax as ef

X = jnp.ones(4)
TREE = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
NAN = float("nan")


def over_workers(tx, gradients):
    return jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name="w")(gradients)


def refused(error, words, call):
    """A case: `call` raises `error` with all of `words` in its message."""
    return pytest.param(error, words, call, id=", ".join(words))


def feedback(**kwargs):
    return ef.error_feedback(ef.scaled_sign(), **kwargs)


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        # How much is kept.
        refused(ValueError, ["k must be at least 1", "got 0"], lambda: ef.top_k(k=0)),
        refused(ValueError, ["k must be", "got -3"], lambda: ef.random_k(k=-3)),
        refused(TypeError, ["k must be an int", "2.5"], lambda: ef.top_k(k=2.5)),
        refused(TypeError, ["k must be an int", "True"], lambda: ef.random_k(k=True)),
        refused(ValueError, ["rank must be at least 1", "0"], lambda: ef.k_pca(0)),
        refused(TypeError, ["rank must be an int", "1.5"], lambda: ef.k_pca(1.5)),
        *(refused(ValueError, ["fraction must be in (0, 1]", f"got {f}"],
                  lambda f=f, make=make: make(fraction=f))
          for make in (ef.top_k, ef.random_k) for f in (0.0, -0.1, 1.5, NAN)),
        refused(TypeError, ["fraction", "'0.1'"], lambda: ef.top_k(fraction="0.1")),
        *(refused(TypeError, ["k must be an int", f"Pass fraction={k}"],
                  lambda k=k: ef.top_k(k)) for k in (0.01, 1.0)),
        # Schedules where none can be, and where optax makes numbers of them.
        refused(TypeError, ["fraction must be a number", "cannot follow a schedule"],
                lambda: ef.top_k(fraction=lambda step: 0.1)),
        *(refused(TypeError, [f"{name} must be a number", "optax.inject_hyperparams"],
                  call) for name, call in (
            ("decay", lambda: feedback(decay=optax.constant_schedule(0.5))),
            ("momentum", lambda: ef.ef_sign_sgd(0.1, momentum=lambda step: 0.9)),
            ("threshold", lambda: ef.sign_sgd(0.1, threshold=lambda step: 0.9)))),
        refused(TypeError, ["learning_rate must be", "or a schedule", "{'w': Array"],
                lambda: ef.ef_sign_sgd(TREE)),
        refused(ValueError, ["one of k and fraction", "k=None"], ef.top_k),
        refused(ValueError, ["one of k and fraction", "k=2 and fraction=0.5"],
                lambda: ef.random_k(k=2, fraction=0.5)),
        # Choices by name.
        refused(ValueError, ["per must be one of 'leaf', 'tree'", "'layer'"],
                lambda: ef.top_k(k=1, per="layer")),
        refused(ValueError, ["per", "'leaf', 'tree'", "'block'"],
                lambda: ef.scaled_sign("block")),
        refused(ValueError, ["per", "size of a block", "at least 1", "got 0"],
                lambda: ef.scaled_sign(0)),
        refused(ValueError, ["zero must be one of None, 'zero', 'positive', 'random'",
                             "'negative'"], lambda: ef.sign("negative")),
        refused(ValueError, ["zero must be one of", "got 0"],
                lambda: ef.ef_sign_sgd(0.1, zero=0)),
        refused(ValueError, ["zero must be one of 'abstain', 'positive', 'random'",
                             "'zero'"], lambda: ef.majority_vote("w", zero="zero")),
        refused(ValueError, ["tie must be one of 'zero', 'positive', 'random'", "'up'"],
                lambda: ef.majority_vote("w", tie="up")),
        refused(ValueError, ["momentum must be one of 'ema', 'heavy_ball'", "'polyak'"],
                lambda: ef.signum(0.1, momentum="polyak")),
        # Keys.
        refused(ValueError, ["tie='random' needs a key", "all workers"],
                lambda: ef.majority_vote("w", tie="random")),
        refused(ValueError, ["zero='random' and tie='random' needs a key"],
                lambda: ef.sign_sgd(0.1, zero="random", tie="random")),
        refused(ValueError, ["zero='random' needs a key", "all workers"],
                lambda: ef.scaled_sign(zero="random")),
        refused(ValueError, ["key is for zero='random' only", "zero=None"],
                lambda: ef.sign(key=0)),
        refused(ValueError, ["noise needs a key"], lambda: ef.sign_sgd(0.1, noise=1.0)),
        *(refused(TypeError, ["key must be an int", shown],
                  lambda k=k: ef.random_k(1, key=k))
          for k, shown in ((1.5, "1.5"), (None, "None"), (True, "True"), ("a", "'a'"),
                           (np.ones(2), "(2,) of dtype float64"))),
        refused(TypeError, ["key must be", "one typed key", "(3,)"],
                lambda: ef.stochastic_sign(jax.random.split(jax.random.key(0), 3))),
        refused(TypeError, ["one raw key", "shape (3,) of dtype uint32"],
                lambda: ef.random_k(1, key=np.zeros(3, np.uint32))),
        refused(ValueError, ["key must fit in 64 bits", str(2**70)],
                lambda: ef.random_k(k=1, key=2**70)),
        # Numbers.
        *(refused(ValueError, ["decay must be in [0, 1]", f"got {b}"],
                  lambda b=b: feedback(decay=b)) for b in (-0.1, 1.1, NAN)),
        refused(ValueError, ["decay", "2."], lambda: feedback(decay=jnp.array(2.0))),
        refused(TypeError, ["decay must be a number", "[2. , 0.5]"],
                lambda: feedback(decay=jnp.array([2.0, 0.5]))),
        refused(TypeError, ["decay must be a number", "None"],
                lambda: feedback(decay=None)),
        refused(ValueError, ["threshold", "[0, infinity)", "-1.0"],
                lambda: ef.majority_vote("w", threshold=-1.0)),
        refused(ValueError, ["quorum", "-2"], lambda: ef.sign_sgd(0.1, quorum=-2)),
        refused(ValueError, ["quorum=3", "the 2 workers on axis 'w'", "at most 2"],
                lambda: over_workers(ef.sign_sgd(0.1, axis_name="w", quorum=3),
                                     jnp.ones((2, 3)))),
        refused(ValueError, ["noise", "-1"], lambda: ef.sign_sgd(0.1, noise=-1, key=0)),
        refused(ValueError, ["weight_decay", "-0.1"],
                lambda: ef.ef_sign_sgd(0.1, weight_decay=-0.1)),
        refused(ValueError, ["momentum must be in [0, 1]", "1.5"],
                lambda: ef.ef_sign_sgd(0.1, momentum=1.5)),
        refused(ValueError, ["beta must be in [0, 1]", "1.5"],
                lambda: ef.signum(0.1, beta=1.5)),
        refused(ValueError, ["warmup_steps", "-1"],
                lambda: ef.signum(0.1, warmup_steps=-1)),
        *(refused(ValueError, ["beta must be in [0, 1)", f"got {b}"],
                  lambda b=b: ef.signum_warmup_steps(b)) for b in (1.0, -0.1, NAN)),
        refused(ValueError, ["learning_rate", "[0, infinity)", "-0.1"],
                lambda: feedback(learning_rate=-0.1)),
        *(refused(kind, ["learning_rate", f"got {rate!r}"],
                  lambda make=make, rate=rate: make(rate))
          for make in (ef.sign_sgd, ef.ef_sign_sgd, ef.scaled_sign_sgd)
          for kind, rate in ((ValueError, -0.1), (TypeError, "fast"))),
        # Dtypes.
        refused(ValueError, ["dtype must be a floating-point", "int8"],
                lambda: ef.cast("int8")),
        refused(ValueError, ["dtype must be a floating-point", "'floaty'"],
                lambda: ef.cast("floaty")),
        refused(ValueError, ["dtype must be a floating-point", "None"],
                lambda: ef.cast(None)),
        refused(ValueError, ["accumulator_dtype must be a floating-point", "'int32'"],
                lambda: feedback(accumulator_dtype="int32")),
        refused(ValueError, ["accumulator_dtype", "'floaty'"],
                lambda: ef.ef_sign_sgd(0.1, accumulator_dtype="floaty")),
        refused(ValueError, ["scaled_sign", "real floating-point", "[1]: int32",
                             "optax.masked"],
                lambda: ef.scaled_sign().init([X, jnp.arange(3)])),
        refused(ValueError, ["error_feedback", "['b']: complex64", "split_real_and"],
                lambda: feedback().init({"b": X.astype(jnp.complex64)})),
        refused(ValueError, ["compress needs", "int32"],
                lambda: ef.compress(ef.sign()).update(
                    [jnp.arange(3)], ef.compress(ef.sign()).init([X]))),
        refused(ValueError, ["majority_vote", "int32"],
                lambda: over_workers(ef.majority_vote("w"), [jnp.ones((2, 3), int)])),
        refused(ValueError, ["error_feedback", "['a']: a str"],
                lambda: feedback().init({"a": "words"})),
        refused(ValueError, ["error_feedback", "['b']: a str"],
                lambda: feedback().update({**TREE, "b": "words"},
                                          feedback().init(TREE))),
        refused(ValueError, ["scaled_sign", "the only leaf: int32"],
                lambda: ef.scaled_sign().init(jnp.arange(3))),
        # Trees.
        refused(ValueError, ["error_feedback", "init saw ['b'], which update was not"],
                lambda: feedback().update({"w": TREE["w"]}, feedback().init(TREE))),
        refused(ValueError, ["update was given ['c'], which init did not see"],
                lambda: feedback().update({**TREE, "c": X}, feedback().init(TREE))),
        refused(ValueError, ["init saw PyTreeDef((*, *)), update was given PyTreeDef"],
                lambda: feedback().update([X, X], feedback().init((X, X)))),
        refused(ValueError, ["error_feedback", "['b']: (3,) instead of (2,)",
                             "gradients of the parameters"],
                lambda: feedback().update({**TREE, "b": jnp.ones(3)},
                                          feedback().init(TREE))),
        refused(ValueError, ["the only leaf: (2, 4) instead of (4,)",
                             "leading worker axis", "over_workers"],
                lambda: feedback().update(jnp.ones((2, 4)), feedback().init(X))),
        refused(ValueError, ["the only leaf: (4,) instead of (2, 4)",
                             "state has a leading worker axis", "jax.pmap"],
                lambda: feedback().update(X, feedback().init(jnp.ones((2, 4))))),
        # What stands where.
        refused(TypeError, ["error_feedback needs a compressor", "scaled_sign()",
                            "Did you mean scaled_sign(...)?"],
                lambda: ef.error_feedback(ef.scaled_sign)),
        refused(TypeError, ["compress needs a compressor", "Did you mean top_k(...)?"],
                lambda: ef.compress(ef.top_k)),
        refused(TypeError, ["needs a compressor", "'top_k'"],
                lambda: ef.error_feedback("top_k")),
        refused(TypeError, ["learning_rate must be a number", "top_k"],
                lambda: ef.ef_sgd(ef.top_k(k=1), 0.1)),
        refused(TypeError, ["compress needs a compressor", "needs no wrapper"],
                lambda: ef.compress(optax.clip(0.1))),
        *(refused(TypeError, ["error_feedback cannot hold a majority vote",
                              "error_feedback(scaled_sign(), axis_name=...)"],
                  lambda vote=vote: ef.error_feedback(vote, axis_name="w"))
          for vote in (ef.majority_vote("w"), ef.vote_sum("w"))),
        refused(TypeError, ["only a compressor can be sent", "axis_name=None",
                            "identity()"],
                lambda: ef.error_feedback(optax.clip(0.1), axis_name="w")),
        *(refused(ValueError, ["all_reduce() sums", name, "exchange=gather()"],
                  lambda c=c: ef.compress(c, axis_name="w", exchange=ef.all_reduce()))
          for c, name in ((ef.scaled_sign(), "scaled_sign"), (ef.top_k(k=1), "top_k"),
                          (ef.cast("bfloat16"), "cast(bfloat16)"))),
        refused(TypeError, ["exchange must be all_reduce(), gather() or two_way()",
                            "forget to call it"],
                lambda: feedback(axis_name="w", exchange=ef.gather)),
        refused(TypeError, ["all_reduce(), gather() or two_way()", "'gather'"],
                lambda: ef.compress(ef.sign(), exchange="gather")),
        refused(TypeError, ["top_k", "cannot be changed by _replace", "build another"],
                lambda: ef.top_k(k=1)._replace(init=None)),
        # Workers and losses.
        refused(TypeError, ["axis_name must be", "['w']"],
                lambda: ef.majority_vote(["w"])),
        refused(NameError, ["axis_name='w' is not bound", "jax.shard_map",
                            "axis_name=None for one worker"],
                lambda: feedback(axis_name="w").update(X, feedback().init(X))),
        refused(TypeError, ["accept_if_lower needs an optimizer", "sign_sgd(...)?"],
                lambda: ef.accept_if_lower(ef.sign_sgd)),
        refused(ValueError, ["value_fn", "scalar", "(4,)"],
                lambda: ef.accept_if_lower(ef.sign_sgd(0.1)).update(
                    X, ef.accept_if_lower(ef.sign_sgd(0.1)).init(X), X,
                    value_fn=lambda x: x)),
        refused(ValueError, ["needs the parameters", "value_fn=loss"],
                lambda: ef.accept_if_lower(ef.sign_sgd(0.1)).update(X, None)),
        refused(ValueError, ["needs the loss", "pass value_fn"],
                lambda: ef.accept_if_lower(ef.sign_sgd(0.1)).update(X, None, X)),
        # What decides the shape of a message cannot be traced.
        *(refused(TypeError, [name, "shape of the message", "static_args"],
                  lambda make=make, v=v: jax.jit(lambda k: make(k).init(X))(v))
          for name, make, v in (
              ("k", ef.top_k, 2), ("rank", ef.k_pca, 2), ("per", ef.scaled_sign, 2),
              ("fraction", lambda f: ef.random_k(fraction=f), 0.5))),
    ],
)
def test_refused_with_what_was_given_and_what_to_do(error, words, call):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message


def test_a_compressor_is_no_function_or_it_would_be_taken_for_a_schedule():
    assert not callable(ef.top_k(k=1)) and not callable(ef.gather())


@pytest.mark.parametrize("make", [ef.top_k, ef.random_k])
def test_numpy_leaves_pass_under_jit(make):
    x, tx = np.arange(8, dtype=np.float32), make(k=2)
    jax.jit(lambda state: tx.update(x, state))(tx.init(x))


def test_python_floats_are_leaves_as_in_optax():
    for tx in (ef.ef_sign_sgd(0.5), ef.sign_sgd(0.5), ef.scaled_sign_sgd(0.5)):
        updates, _ = tx.update({"a": 2.0}, tx.init({"a": 1.0}))
        assert updates["a"] in (-0.5, -1.0)


def test_traced_values_pass():
    def one(value):
        txs = [
            feedback(decay=value),
            feedback(learning_rate=value),
            ef.ef_sign_sgd(value, decay=value, momentum=value, weight_decay=value),
            ef.signum(value, value, threshold=value, quorum=value, noise=value, key=0,
                      weight_decay=value, warmup_steps=value),
        ]
        return [tx.update(X, tx.init(X), X)[0] for tx in txs]

    assert np.isfinite(jax.jit(one)(jnp.array(0.5))).all()
    jax.jit(one)(jnp.array(-0.5))  # out of range, but nobody can know


def test_injected_hyperparameters_pass_and_act():
    make = optax.inject_hyperparams(ef.ef_sign_sgd, static_args=("per",))
    tx = make(learning_rate=0.5, decay=0.0)
    state = tx.init(X)
    state.hyperparams["learning_rate"] = jnp.array(0.25)
    np.testing.assert_array_equal(tx.update(X, state)[0], -0.25 * X)
    tx = optax.inject_hyperparams(ef.majority_vote, static_args=("axis_name",))(
        None, threshold=2.0)
    np.testing.assert_array_equal(tx.update(X, tx.init(X))[0], 0 * X)
