"""The one list of transformations under test; test_contract*.py run over it.

A new method is one line of CASES, a new compressor one line of COMPRESSORS (which
makes three cases: bare, in compress, in error_feedback), and it inherits every check.
A case says itself which check does not apply to it, and why, and whether it is light:
one for each kind of message, exchange, vote, key and state of a worker. What compiles
a program for each case runs over these in `make test`, over all in `make test-slow`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import ef_optax as eo


class Case(NamedTuple):
    """A factory of transformations, and what the checks must know about it.

    Attributes:
      factory: makes the transformation of `kwargs`, and of `axis_name` if it has one.
      kwargs: its other arguments; int keys, so that no array is shared between cases.
      static: arguments that decide shapes: inject_hyperparams must leave them alone.
      extra: extra arguments that update needs.
      skip: name of a check -> why it does not apply.
      light: whether it stands for its kind where a check compiles for each case.
    """

    factory: Callable[..., optax.GradientTransformation]
    kwargs: dict[str, Any]
    static: tuple[str, ...]
    extra: dict[str, Any]
    skip: dict[str, str]
    light: bool

    @property
    def crosses(self) -> bool:
        return "axis_name" in inspect.signature(self.factory).parameters

    def make(self, axis_name: str | None = None) -> optax.GradientTransformation:
        """Returns the transformation for the workers of an axis, or for one."""
        axis = {"axis_name": axis_name} if self.crosses else {}
        return self.factory(**self.kwargs, **axis)

    def needs(self, check: str) -> None:
        """Skips the test if the case says that the check does not apply."""
        if check in self.skip:
            pytest.skip(self.skip[check])


def case(factory, *, static=(), extra=None, skip=None, light=False, **kwargs) -> Case:
    return Case(factory, kwargs, static, extra or {}, skip or {}, light)


def schedule(count):
    return 0.125 / (1.0 + count)


def loss(params):
    return sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in
               jax.tree.leaves(params))


def vectors(tree):
    return jax.tree.map(lambda x: jnp.ndim(x) < 2, tree)


NEEDS_PARAMS = {"without_params": "weight decay is a function of the parameters"}
MOMENTUM = {"forgets_nonfinite": "the other workers' momentum knows of no NaN"}
COUNTS = {"forgets_nonfinite": "optax's schedules and noise count the step"}
OPTION_2 = {
    "without_params": "compares the loss before and after the step",
    "train_state": "TrainState passes no value_fn",
    "nonfinite": "a NaN step is not lower: it is refused, so it is 0",
}
NO_MESSAGE = {"workers": "an optax transformation makes no message that could cross"}
WHOLE = {"sharded": "JAX wants a leaf that is reordered or decomposed in one place"}
PASSES = {"nonfinite": "looks only, and passes on what it is given"}

COMPRESSORS = {
    "identity": case(eo.identity, light=True),
    "sign": case(eo.sign),
    "sign_zero": case(eo.sign, zero="zero"),
    "sign_positive": case(eo.sign, zero="positive"),
    "sign_random": case(eo.sign, zero="random", key=1, light=True),
    "scaled_sign": case(eo.scaled_sign, light=True),
    "scaled_sign_tree": case(eo.scaled_sign, per="tree"),
    "scaled_sign_block": case(eo.scaled_sign, per=3, static=("per",), skip=WHOLE),
    "scaled_sign_zero": case(eo.scaled_sign, zero="zero"),
    "scaled_sign_random": case(eo.scaled_sign, zero="random", key=2),
    "top_k": case(eo.top_k, k=2, static=("k",), skip=WHOLE),
    "top_k_fraction": case(
        eo.top_k, fraction=0.3, static=("fraction",), skip=WHOLE),
    "top_k_tree": case(
        eo.top_k, k=4, per="tree", static=("k",), skip=WHOLE, light=True),
    "random_k": case(
        eo.random_k, k=2, key=8, static=("k",), skip=WHOLE, light=True),
    "random_k_scaled": case(
        eo.random_k, fraction=0.5, scaled=True, static=("fraction",), skip=WHOLE),
    "k_pca": case(eo.k_pca, rank=1, static=("rank",), skip=WHOLE, light=True),
    "stochastic_sign": case(eo.stochastic_sign, key=3, skip=WHOLE, light=True),
    "cast_bfloat16": case(eo.cast, dtype=jnp.bfloat16, static=("dtype",)),
    "cast_float8": case(eo.cast, dtype=jnp.float8_e4m3fn, static=("dtype",)),
    "cast_float32": case(eo.cast, dtype=jnp.float32, static=("dtype",)),
}


def around(feedback, name, skip=None, **kwargs):
    """Returns the case of a feedback around one of COMPRESSORS."""
    inner = COMPRESSORS[name]
    skip = inner.skip | (skip or {})
    return case(feedback, compressor=inner.make(), skip=skip, **kwargs)


def ef_in_measures(axis_name=None):
    return eo.record_measures(
        eo.error_feedback(eo.scaled_sign(), axis_name=axis_name), axis_name=axis_name)


def measures_after_vote(axis_name=None):
    return optax.chain(
        eo.majority_vote(axis_name), eo.record_measures(axis_name=axis_name))


def exempt_vectors(axis_name=None):
    tx = eo.error_feedback(eo.scaled_sign(), axis_name=axis_name)
    return eo.exempt(tx, vectors, axis_name)


def local_momentum(axis_name=None):
    return optax.chain(
        eo.local(optax.trace(0.5), axis_name), eo.majority_vote(axis_name))


def accumulated(every, axis_name=None):
    tx = eo.ef_sign_sgd(0.125, axis_name=axis_name)
    return eo.accumulate(tx, every, axis_name)


def skipping(axis_name=None):
    return eo.skip_nonfinite(eo.signum(0.125, axis_name=axis_name), axis_name)


def option_2(axis_name=None):
    return eo.accept_if_lower(eo.sign_sgd(0.125, axis_name=axis_name), axis_name)


ef = functools.partial(around, eo.error_feedback)
rate = {"learning_rate": 0.125}

CASES = {
    **COMPRESSORS,
    **{f"compress_{name}": around(eo.compress, name) for name in COMPRESSORS},
    **{f"ef_{name}": ef(name, light=c.light) for name, c in COMPRESSORS.items()},
    # Options of error feedback.
    "ef_decay": ef("scaled_sign", decay=0.5),
    "ef_bfloat16_error": ef(
        "scaled_sign", accumulator_dtype=jnp.bfloat16, static=("accumulator_dtype",)),
    "ef_learning_rate": ef("top_k", learning_rate=schedule, skip=COUNTS, light=True),
    "ef_all_reduce": ef("random_k", exchange=eo.all_reduce()),
    "ef_gather": ef("random_k", exchange=eo.gather()),
    "compress_gather": around(
        eo.compress, "identity", exchange=eo.gather(), light=True),
    "compress_two_way": around(
        eo.compress, "cast_bfloat16", WHOLE, exchange=eo.two_way()),
    "ef_two_way": ef("scaled_sign", WHOLE, exchange=eo.two_way(), light=True),
    "ef_two_way_other": ef(
        "stochastic_sign", exchange=eo.two_way(eo.top_k(k=2)), decay=0.5),
    "ef_two_way_learning_rate": ef(
        "scaled_sign_zero", WHOLE | COUNTS, exchange=eo.two_way(),
        learning_rate=schedule),
    "ef_clip": case(
        eo.error_feedback, compressor=optax.clip(0.5), skip=NO_MESSAGE),
    "ef_chain": case(
        eo.error_feedback, compressor=optax.chain(optax.scale(0.5), eo.sign("zero")),
        skip=NO_MESSAGE),
    "exempt": case(exempt_vectors, light=True),
    "local": case(local_momentum, skip=MOMENTUM, light=True),
    "accumulate": case(accumulated, every=1),
    "accumulate_two": case(accumulated, every=2, skip={
        "forgets_nonfinite": "the step after an update makes no update"}, light=True),
    "skip_nonfinite": case(
        skipping, skip={"nonfinite": "a NaN step is one of 0"}, light=True),
    "record_measures": case(eo.measures.record_measures, skip=PASSES | {
        "workers": "alone it passes on what differs between the workers"}),
    "measures_after_vote": case(measures_after_vote),
    "ef_in_measures": case(ef_in_measures, light=True),
    # Votes.
    "vote": case(eo.majority_vote),
    "vote_positive": case(eo.majority_vote, zero="positive", tie="positive"),
    "vote_random": case(eo.majority_vote, zero="random", tie="random", key=4,
        skip={"sharded": "JAX does not shard the random numbers"}, light=True),
    "vote_unsure": case(eo.majority_vote, threshold=0.25, quorum=1),
    "vote_packed": case(eo.majority_vote, wire="packed", skip=WHOLE),
    "vote_packed_positive": case(
        eo.majority_vote, wire="packed", zero="positive", tie="positive", skip=WHOLE),
    "vote_packed_random": case(
        eo.majority_vote, wire="packed", zero="random", tie="random", key=4,
        skip=WHOLE),
    "vote_packed_unsure": case(
        eo.majority_vote, wire="packed", threshold=0.25, quorum=1, skip=WHOLE,
        light=True),
    "vote_sum": case(eo.vote_sum),
    # Optimizers.
    "sign_sgd": case(eo.sign_sgd, **rate),
    "sign_sgd_schedule": case(eo.sign_sgd, learning_rate=schedule, skip=COUNTS),
    "sign_sgd_noise": case(eo.sign_sgd, **rate, noise=0.5, key=5, skip=COUNTS),
    "sign_sgd_decay": case(
        eo.sign_sgd, **rate, weight_decay=0.5, skip=NEEDS_PARAMS),
    "signum": case(eo.signum, **rate, skip=MOMENTUM),
    "signum_heavy_ball": case(
        eo.signum, **rate, momentum="heavy_ball", skip=MOMENTUM),
    "signum_warm_up": case(
        eo.signum, **rate, warmup_steps=1, noise=0.5, key=6, skip=MOMENTUM,
        light=True),
    "scaled_sign_sgd": case(eo.scaled_sign_sgd, **rate, per="tree"),
    "stochastic_sign_sgd": case(
        eo.stochastic_sign_sgd, **rate, key=7, weight_decay=0.5,
        skip=NEEDS_PARAMS | WHOLE),
    "ef_sgd_top_k": case(
        eo.ef_sgd, learning_rate=schedule, compressor=eo.top_k(fraction=0.3),
        skip=COUNTS | WHOLE),
    "ef_sgd_random_k": case(
        eo.ef_sgd, **rate, compressor=eo.random_k(k=2, scaled=True), decay=0.5,
        skip=WHOLE),
    "ef_sgd_k_pca": case(eo.ef_sgd, **rate, compressor=eo.k_pca(1), skip=WHOLE),
    "ef_sgd_identity": case(eo.ef_sgd, **rate, compressor=eo.identity()),
    "ef_sign_sgd": case(eo.ef_sign_sgd, **rate),
    "ef_sign_sgd_momentum": case(
        eo.ef_sign_sgd, **rate, momentum=0.5, nesterov=True, weight_decay=0.5,
        skip=NEEDS_PARAMS | MOMENTUM, light=True),
    "accept_if_lower": case(
        option_2, extra={"value_fn": loss}, skip=OPTION_2, light=True),
}

# Each kind that draws random numbers of a key.
KEYED = tuple(
    name for name, case in CASES.items() if case.light and "key" in case.kwargs)

# A compressor's own case is what it is in error feedback, where it meets workers too.
LIGHT = tuple(name for name, case in CASES.items() if case.light and case.crosses)


def every(cases=CASES, *, compiles=False):
    """Parametrizes a test over cases, by name.

    Args:
      cases: their names.
      compiles: whether the test compiles for each case: then only light ones are quick.
    """
    return pytest.mark.parametrize("case", [
        pytest.param(CASES[name], id=name, marks=_marks(name, compiles))
        for name in cases
    ])


def _marks(name, compiles):
    # What a compressor does its bare case shows; what feedback does, the light ones.
    inner = name.removeprefix("compress_").removeprefix("ef_")
    again = inner != name and inner in COMPRESSORS
    return pytest.mark.slow if (again or compiles) and name not in LIGHT else ()
