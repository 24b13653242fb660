"""Every algorithm of the three papers against plain NumPy float64, step by step."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import ef_optax as eo

STEPS = 25
SHAPES = {"conv": (2, 2, 3, 4), "m": (5, 3), "s": (), "v": (7,)}
# Falls, stays, rises and falls again; powers of two are not special here.
RATES = np.interp(np.arange(STEPS), [0, 8, 12, 16, 24], [0.1, 0.03, 0.03, 0.06, 0.01])
RATES = RATES.astype(np.float32)


def schedule(count):
    return jnp.asarray(RATES)[count]


def draw(seed, shapes=SHAPES, lead=()):
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal((*lead, *s), np.float32) for n, s in shapes.items()}


# A quadratic in each coordinate with heavy noise; two coordinates never have a
# gradient, so that the sign of 0 counts.
START, TARGET = draw(0), draw(1)
CURVATURE = {n: np.abs(x) / 2 + 0.5 for n, x in draw(2).items()}
NOISE = draw(3, lead=(STEPS, 4))
for tree in (CURVATURE, NOISE):
    tree["v"][..., 2:4] = 0


def gradient(x, t, worker):
    return {n: CURVATURE[n] * (x[n] - TARGET[n]) + NOISE[n][t, worker] for n in x}


class Run(NamedTuple):
    """What the library did; leaves lead with [workers, steps], a state's [workers]."""

    points: Any
    updates: Any
    state: Any


def library(tx, workers=1, **extra):
    def one(noise):
        def step(carry, n):
            x, state = carry
            g = {k: CURVATURE[k] * (x[k] - TARGET[k]) + n[k] for k in x}
            u, state = tx.update(g, state, x, **extra)
            x = optax.apply_updates(x, u)
            return (x, state), (x, u)

        x = jax.tree.map(jnp.asarray, START)
        (_, state), (points, updates) = jax.lax.scan(step, (x, tx.init(x)), noise)
        return Run(points, updates, state)

    noise = {k: np.moveaxis(n[:, :workers], 1, 0) for k, n in NOISE.items()}
    return jax.device_get(jax.jit(jax.vmap(one, axis_name="w"))(noise))


def numpy(step, workers=1):
    start = {n: x.astype(np.float64) for n, x in START.items()}
    return oracles.run(step, start, gradient, RATES, workers)


def assert_follows(run, points, ulps=8):
    """All workers alike to the bit, and near the oracle at every step."""
    for n in SHAPES:
        wanted = np.stack([x[n] for x in points])
        for got in run.points[n]:
            np.testing.assert_array_equal(got, run.points[n][0])
        tolerance = ulps * np.finfo(np.float32).eps * np.abs(wanted).max()
        np.testing.assert_allclose(run.points[n][0], wanted, rtol=0, atol=tolerance)


def errors_of(state):
    """The errors of a chain's state, of every worker."""
    return next(s.error for s in state if isinstance(s, eo.ErrorFeedbackState))


def assert_errors_follow(run, errors):
    for worker, error in enumerate(errors):
        for n, e in error.items():
            got = errors_of(run.state)[n][worker]
            # The paper subtracts its error, the library adds: opposite signs.
            np.testing.assert_allclose(got, -e, rtol=0, atol=4e-6)


# Without memory, or with momentum only: (library, oracle, workers).
w = {"axis_name": "w"}
MEMORYLESS = {
    "sign": (eo.sign_sgd(schedule), oracles.sign_sgd(), 1),
    "sign, decoupled decay": (
        eo.sign_sgd(schedule, weight_decay=0.1), oracles.sign_sgd(0.1), 1),
    "signum": (eo.signum(schedule, 0.9), oracles.signum(0.9), 1),
    "signum, heavy ball": (
        eo.signum(schedule, 0.9, momentum="heavy_ball"),
        oracles.signum(0.9, heavy_ball=True), 1),
    "signum, warm-up": (
        eo.signum(schedule, 0.8, warmup_steps=eo.signum_warmup_steps(0.8)),
        oracles.signum(0.8, warmup=19), 1),
    "signum, vote": (
        eo.signum(schedule, 0.5, weight_decay=0.1, **w),
        oracles.signum(0.5, decay=0.1), 3),
    "signum, vote of heavy balls after warm-up": (
        eo.signum(schedule, 0.5, momentum="heavy_ball", warmup_steps=1, **w),
        oracles.signum(0.5, warmup=1, heavy_ball=True), 4),
    "vote of 4, ties": (eo.sign_sgd(schedule, **w), oracles.majority_vote(), 4),
    "vote, threshold and quorum": (
        eo.sign_sgd(schedule, threshold=0.5, quorum=2, **w),
        oracles.majority_vote(0.5, 2), 3),
    "vote sum": (
        optax.chain(eo.vote_sum("w"), optax.scale_by_learning_rate(schedule)),
        oracles.vote_sum(), 4),
    "scaled sign": (
        eo.scaled_sign_sgd(schedule),
        oracles.compressed_sgd(oracles.each(oracles.mean_sign)), 1),
    "scaled sign, tree, coupled decay": (
        eo.scaled_sign_sgd(schedule, per="tree", weight_decay=0.1),
        oracles.compressed_sgd(oracles.whole(oracles.mean_sign), decay=0.1), 1),
}


# What another case of the same code path shows in `make test`.
AGAIN = (
    "sign", "signum", "signum, vote", "vote of 4, ties", "scaled sign",
    "EF-signSGD", "EF-signSGD, decay of the error", "EF cast", "EF top-k",
    "EF-signSGD of 3 workers", "EF random-k",
)


def quick_but(again, names):
    """Parametrizes a test over names; those of `again` are slow."""
    return pytest.mark.parametrize("name", [
        pytest.param(name, marks=pytest.mark.slow if name in again else ())
        for name in names])


@quick_but(AGAIN, MEMORYLESS)
def test_follows_the_paper(name):
    tx, oracle, workers = MEMORYLESS[name]
    assert_follows(library(tx, workers), numpy(oracle, workers))


def test_heavy_ball_has_the_signs_of_the_average():
    average = library(eo.signum(schedule, 0.9))
    ball = library(eo.signum(schedule, 0.9, momentum="heavy_ball"))
    chex.assert_trees_all_equal(average.points, ball.points)


# With error feedback: (library, the oracle's compressor, the oracle's options).
top3 = oracles.each(lambda x: oracles.top(x, 3))
layers = oracles.each(oracles.mean_sign)
FEEDBACK = {
    "EF-signSGD": (eo.ef_sign_sgd(schedule), layers, {}),
    "EF-signSGD, tree": (
        eo.ef_sign_sgd(schedule, per="tree"), oracles.whole(oracles.mean_sign), {}),
    "EF-signSGD, blocks with short ends": (
        eo.ef_sign_sgd(schedule, per=5),
        oracles.each(lambda x: oracles.mean_sign_blocks(x, 5)), {}),
    "EF-signSGD, momentum and coupled decay": (
        eo.ef_sign_sgd(schedule, momentum=0.9, weight_decay=0.1), layers,
        {"momentum": 0.9, "weight_decay": 0.1}),
    "EF-signSGD, decay of the error": (
        eo.ef_sign_sgd(schedule, decay=0.7), layers, {"decay": 0.7}),
    "EF top-k": (eo.ef_sgd(schedule, eo.top_k(k=3)), top3, {}),
    "EF top-k of the tree": (
        eo.ef_sgd(schedule, eo.top_k(fraction=0.1, per="tree")),
        oracles.whole(lambda x: oracles.top(x, 8)), {}),  # ⌈0.1 · 71⌉
    "EF k-PCA": (
        eo.ef_sgd(schedule, eo.k_pca(2)),
        oracles.each(lambda x: oracles.best_rank(x, 2)), {}),
    "EF clip": (
        eo.ef_sgd(schedule, optax.clip(0.1)),
        oracles.each(lambda x: np.clip(x, -0.1, 0.1)), {}),
    "EF cast": (
        eo.ef_sgd(schedule, eo.cast(jnp.bfloat16)),
        oracles.each(lambda x: oracles.round_to(x, 8)), {}),
    "EF-signSGD of 3 workers": (
        eo.ef_sign_sgd(schedule, zero="zero", momentum=0.5, **w), layers,
        {"momentum": 0.5, "workers": 3}),
    "EF top-k of 4 workers": (
        eo.ef_sgd(schedule, eo.top_k(k=3), **w), top3, {"workers": 4}),
}


@quick_but(AGAIN, FEEDBACK)
def test_error_feedback_follows_algorithms_1_and_2(name):
    tx, compress, options = FEEDBACK[name]
    options = dict(options)
    workers = options.pop("workers", 1)
    oracle = oracles.EfSgd(compress, **options)
    run = library(tx, workers)
    assert_follows(run, numpy(oracle, workers))
    assert_errors_follow(run, oracle.e)


class Replay:
    """A random operator of the oracle, with the draws that the library made."""

    def __init__(self, operator, updates, repeat=1):
        draws = [{n: u[0, t] for n, u in updates.items()} for t in range(STEPS)]
        self.draws = (d for d in draws for _ in range(repeat))
        self.operator = operator

    def __call__(self, p):
        drawn = next(self.draws)
        return {n: self.operator(p[n], drawn[n]) for n in p}


def sign_of_norm(x, u):
    return np.linalg.norm(x) * -np.sign(u)  # an update is minus what was sent


# (library, how the oracle takes its draw, workers)
RANDOM = {
    "EF random-k": (
        eo.ef_sgd(schedule, eo.random_k(k=3)), lambda x, u: np.where(u, x, 0), 1),
    "EF random-k of 3 workers": (
        eo.ef_sgd(schedule, eo.random_k(k=3), **w), lambda x, u: np.where(u, x, 0), 3),
    "EF stochastic sign": (
        eo.ef_sgd(schedule, eo.stochastic_sign(1)),
        lambda x, u: sign_of_norm(x, u) / x.size, 1),  # Remark 5: C/d
}


@quick_but(AGAIN, RANDOM)
def test_error_feedback_of_random_operators_follows_algorithm_2(name):
    tx, operator, workers = RANDOM[name]
    run = library(tx, workers)
    oracle = oracles.EfSgd(Replay(operator, run.updates, repeat=workers))
    assert_follows(run, numpy(oracle, workers))
    assert_errors_follow(run, oracle.e)


def test_stochastic_sign_follows_appendix_e():
    run = library(eo.stochastic_sign_sgd(schedule, key=1))
    oracle = oracles.compressed_sgd(Replay(sign_of_norm, run.updates))
    assert_follows(run, numpy(oracle))


def loss(x):
    return sum((CURVATURE[n] * (x[n] - TARGET[n]) ** 2).sum() / 2 for n in x)


def test_option_2_never_raises_the_loss_and_a_rejected_step_leaves_the_state():
    # Rejected steps do not count: momentum and the schedule stay where they were.
    tx = eo.accept_if_lower(eo.sign_sgd(lambda t: 8 * schedule(t)))
    run = library(tx, value_fn=loss)
    x = {n: x.astype(np.float64) for n, x in START.items()}
    step, points, taken = oracles.sign_sgd_option_2(loss), [], 0
    for t in range(STEPS):
        new = step(x, [gradient(x, t, 0)], 8 * float(RATES[taken]))
        assert loss(new) <= loss(x)
        taken += new is not x
        x = new
        points.append(x)
    assert 0 < taken < STEPS  # both happen
    assert_follows(run, points)
    assert int(run.state.rejections[0]) == STEPS - taken


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (eo.sign_sgd(schedule), optax.sign_sgd(schedule)),
        (eo.signum(schedule, 0.9), optax.signum(schedule, 0.9)),
        (eo.ef_sgd(schedule, eo.identity()), optax.sgd(schedule)),
        (eo.ef_sgd(schedule, eo.identity(), momentum=0.9, nesterov=True),
         optax.sgd(schedule, momentum=0.9, nesterov=True)),
    ],
    ids=["sign_sgd", "signum", "sgd", "sgd with momentum"],
)
def test_one_worker_equals_optax(ours, theirs):
    gradients = {n: x[:, 0] for n, x in NOISE.items()}

    def updates(tx):
        def step(state, g):
            u, state = tx.update(g, state)
            return state, u

        return jax.lax.scan(step, tx.init(START), gradients)[1]

    # To the bit operation by operation; a compiler may round a product and a sum once.
    chex.assert_trees_all_close(
        *jax.jit(lambda: (updates(ours), updates(theirs)))(), rtol=1e-6, atol=1e-7)
    first = jax.tree.map(lambda g: g[0], gradients)
    chex.assert_trees_all_equal(
        *(tx.update(first, tx.init(START))[0] for tx in (ours, theirs)))


def test_adam_without_memory_is_sign_sgd():
    # Where a gradient is 0, this Adam is 0/0.
    gradients = {n: x[:, 0] for n, x in NOISE.items() if n != "v"}
    updates = [
        jax.jit(jax.vmap(lambda g, tx=tx: tx.update(g, tx.init(g))[0]))(gradients)
        for tx in (eo.sign_sgd(0.1), optax.adam(0.1, b1=0.0, b2=0.0, eps=0.0))
    ]
    chex.assert_trees_all_close(*updates, rtol=1e-6)


@pytest.mark.parametrize(
    ("beta", "steps"),
    [(0.0, 1), (0.5, 1), (0.75, 2), (0.8, 19), (0.9, 54), (0.95, 132), (0.99, 894)])
def test_warm_up_steps_of_theorem_3(beta, steps):
    assert eo.signum_warmup_steps(beta) == steps
