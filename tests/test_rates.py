"""Runs with known constants: problems, simulation, comparisons, verdicts."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ef_optax as eo
from experiments._results import Results
from experiments.rates import bounds, curves, feedback, problems, sign, stochastic
from experiments.rates.curves import Comparison, Curve
from experiments.rates.feedback.smooth import Smooth
from experiments.rates.sign import bits
from experiments.rates.simulate import Simulation, prefix_means, weighted_means
from experiments.rates.stochastic import chances, scaled

RNG = np.random.default_rng(0)
SMOOTH = {
    "quadratic": problems.quadratic(np.geomspace(0.1, 2, 5), 1.0),
    "ripples": problems.ripples(np.linspace(0.5, 1, 5), 1.0),
    "valley": problems.valley(5, 0.3, 2.0, 4.0),
}


# Problems.


@pytest.mark.parametrize("name", SMOOTH)
def test_constants_of_smooth_problems_are_those_of_the_function(name):
    p = SMOOTH[name]
    x = jnp.float32(RNG.uniform(-4, 4, (300, 5)) * RNG.uniform(0, 1, (300, 1)))
    f = jax.jit(jax.vmap(p.value))(x)
    gradients = jax.jit(jax.vmap(p.gradient))
    g = np.asarray(gradients(x), np.float64)
    slopes = jax.jit(jax.vmap(jax.grad(p.value)))
    np.testing.assert_allclose(g, slopes(x), atol=2e-5)
    assert (np.asarray(f) >= p.minimum).all()
    assert float(p.value(jnp.float32(p.solution))) == p.minimum
    # f(y) ≤ f(x) + <g, y - x> + Σ L_i/2 (y_i - x_i)², both ways, and not by far.
    step = np.asarray(x[::-1] - x, np.float64)
    above = np.asarray(f)[::-1] - f - (g * step).sum(1)
    assert (np.abs(above) <= (p.smooth * step**2).sum(1) / 2 + 1e-4).all()
    near = np.asarray(slopes(jnp.full((1, 5), 1e-3)))[0] / 1e-3
    np.testing.assert_allclose(near, p.smooth, rtol=1e-4)  # L_i is attained at 0
    if p.steepest is not None:
        norms = np.linalg.norm(g, axis=1)
        assert norms.max() <= p.steepest * (1 + 1e-6)
        grid = jnp.linspace(-6, 6, 4001)[:, None] * jnp.ones(5)
        most = np.linalg.norm(gradients(grid), axis=1).max()
        assert 0.85 * p.steepest <= most <= p.steepest * (1 + 1e-6)


def test_ripples_are_not_convex_and_have_one_stationary_point():
    p = SMOOTH["ripples"]
    x = np.linspace(-8, 8, 20_001)
    slope = np.asarray(
        jax.jit(jax.vmap(p.gradient))(jnp.float32(x)[:, None] * jnp.ones(5)))[:, 0]
    assert (np.diff(slope) / np.diff(x)).min() < -0.1
    assert ((slope * x) > 0)[np.abs(x) > 1e-3].all()


def test_creases_give_subgradients_of_known_norm():
    p = problems.creases(3, 0.5, 1.0)
    x, y = (jnp.float32(RNG.uniform(-2, 2, (200, 6))) for _ in range(2))
    x = x.at[:50, 1].set(x[:50, 0])  # on the kink
    f, g = jax.vmap(p.value), np.asarray(jax.vmap(p.gradient)(x))
    assert (f(y) >= f(x) + (g * np.asarray(y - x)).sum(1) - 1e-4).all()
    np.testing.assert_allclose(np.linalg.norm(g, axis=1), p.steepest, rtol=1e-6)
    assert p.distance == pytest.approx(math.sqrt(6))
    assert p.gap == pytest.approx(3.0)
    assert p.second_moment(0.1) == pytest.approx(6 * 1.25 + 6 * 0.01)


@pytest.mark.parametrize("noise", [problems.GAUSSIAN, problems.CAUCHY, problems.SKEWED])
def test_noise_has_the_stated_law(noise):
    drawn = np.asarray(noise.draw(jax.random.key(2), (100_000,)), np.float64)
    if noise.success is not None:
        for s in (0.1, 1.0):
            assert (s + drawn > 0).mean() == pytest.approx(
                float(noise.success(jnp.float32(s))), abs=0.006)
    if noise is not problems.CAUCHY:
        assert abs(drawn.mean()) < 0.015
        assert drawn.var() == pytest.approx(1, rel=0.02)
    if noise is problems.SKEWED:
        values = np.unique(drawn.round(5))
        np.testing.assert_allclose(
            values * problems.SKEWED_DEVIATION + problems.SKEWED_MEAN, [-1, 50],
            atol=1e-3)


# Simulation.


def noise_of(simulation, steps, shape):
    """The noise that a simulation adds, drawn once more: [seeds, steps, *shape]."""
    keys = jax.random.split(jax.random.key(simulation.seed), simulation.seeds)
    return np.stack([
        [np.asarray(jax.random.normal(jax.random.fold_in(key, t), shape))
         for t in range(steps)] for key in keys
    ]).astype(np.float64)


def test_runs_are_those_of_a_loop():
    p, steps, d = SMOOTH["quadratic"], 70, 5  # more than a chunk
    simulation = Simulation(
        p, lambda rate, key: eo.sign_sgd(rate),
        lambda s: {"x": s.x, "average": s.average, "scale": s.scale}, 2, seed=3,
    )
    got = simulation.run(steps, 0.2, scale=0.7, batch=4.0, decay=0.5, growth=1.0)
    noise = noise_of(simulation, steps, (d,))
    for run in range(2):
        x, total = np.ones(d), np.zeros(d)
        for t in range(steps):
            total += x
            np.testing.assert_allclose(got["x"][t, run], x, atol=2e-4)
            np.testing.assert_allclose(got["average"][t, run], total / (t + 1),
                                       atol=2e-4)
            scale = 0.7 / math.sqrt(4 * (t + 1))
            assert got["scale"][t, run] == pytest.approx(scale, rel=1e-5)
            g = p.smooth * x + scale * noise[run, t]
            x = x - 0.2 / math.sqrt(t + 1) * np.sign(g)
    assert np.abs(got["x"][:, 0] - got["x"][:, 1]).max() > 0.1


def test_workers_vote_with_noise_of_their_own():
    p, steps, d, workers = SMOOTH["quadratic"], 40, 5, 4
    simulation = Simulation(
        p, lambda rate, key: eo.sign_sgd(rate, axis_name="workers"),
        lambda s: {"x": s.x}, 1, workers=workers,
    )
    got = simulation.run(steps, 0.1, scale=2.0)["x"]
    noise = noise_of(simulation, steps, (workers, d))[0]
    x = np.ones(d)
    for t in range(steps):
        np.testing.assert_allclose(got[t, 0], x, atol=1e-4)
        x = x - 0.1 * np.sign(np.sign(p.smooth * x + 2 * noise[t]).sum(0))


def test_feedback_keeps_its_error_from_chunk_to_chunk():
    p, steps = SMOOTH["quadratic"], 130
    simulation = Simulation(
        p, lambda rate, key: eo.ef_sgd(rate, eo.top_k(k=1)),
        lambda s: {"x": s.x}, 1,
    )
    got = simulation.run(steps, 0.3, scale=0.0)["x"][:, 0]
    x, e = np.ones(5), np.zeros(5)
    for t in range(steps):
        np.testing.assert_allclose(got[t], x, atol=1e-4)
        sent = 0.3 * p.smooth * x + e
        kept = np.where(np.arange(5) == np.abs(sent).argmax(), sent, 0)
        x, e = x - kept, sent - kept


def test_prefixes_and_weights():
    measured = RNG.uniform(size=(20, 3))
    weights = RNG.uniform(size=20)
    plain = prefix_means(measured, (4, 20))
    heavy = weighted_means(measured, weights, (4, 20))
    for i, t in enumerate((4, 20)):
        np.testing.assert_allclose(plain[:, i], measured[:t].mean(0))
        np.testing.assert_allclose(
            heavy[:, i], np.average(measured[:t], axis=0, weights=weights[:t]))


# Comparisons.

AT = np.array([10.0, 100.0, 1000.0])


def power(slope, factor=1.0, **kwargs):
    runs = factor * np.array([[1.0], [1.2]]) * AT**slope
    return Curve("power", AT, runs, kwargs.pop("bound", 2 * AT**-0.5),
                 kwargs.pop("rate", AT**-0.5), **kwargs)


def test_slopes_are_those_of_power_laws():
    c = power(-0.7)
    assert c.slope() == (pytest.approx(-0.7), pytest.approx(0, abs=1e-12))
    assert c.slope_of_rate() == pytest.approx(-0.5)
    assert c.falls(0) and not power(-0.4).falls(0.05) and power(-0.46).falls(0.05)
    assert power(-0.7, fit_from=2000).slope() is None
    rate = np.log(AT) / np.sqrt(AT)
    assert power(-0.4, rate=rate).slope_of_rate() == pytest.approx(
        -0.5 + math.log(3) / math.log(100))


def test_a_mean_above_its_bound_is_seen_unless_chance_explains_it():
    c = power(-0.5, factor=2.0)  # mean 2.2, standard error 0.2
    assert list(c.above(0.5)) == list(AT) and not c.above(1.5).size
    one = Curve("one seed", AT, 1.1 * 2 * AT[None] ** -0.5, 2 * AT**-0.5)
    assert list(one.above(3)) == list(AT)
    judged = Comparison("key", [power(-0.5, 0.1), c], 0.5)
    assert not judged.holds and "power: above the bound at 10, 100" in judged.why
    assert "at most 1.1 ± 0.1 of the bound (power" in judged.number
    chance = Comparison("key", [c], 1.5)
    assert chance.holds and "above it by 1.0 standard errors" in chance.number
    assert Comparison("key", [power(-0.6, 0.1)], 3).why == ""
    late = Comparison("key", [power(-0.3, 0.01)], 3, 0.05)
    assert not late.holds and "slope -0.300, not -0.500" in late.why


@pytest.mark.parametrize(
    ("runs", "bound", "message"),
    [
        (np.ones((2, 3)), [1.0, math.nan, 1.0], "bound of 'x'"),
        (np.full((2, 3), math.inf), np.ones(3), "runs of 'x'"),
        (np.ones((2, 2)), np.ones(3), "3 horizons"),
    ],
)
def test_curves_refuse_what_cannot_be_compared(runs, bound, message):
    with pytest.raises(ValueError, match=message):
        Curve("x", AT, runs, bound)


# Single bits and votes.


def test_votes_on_a_sign_keep_to_their_bounds_and_not_by_far():
    config = sign.Config(signals=8, most_workers=30)
    (any_law,) = bits.votes(config, worst=True)
    assert any_law.mean[0] == pytest.approx(0.5) and any_law.mean.max() < 0.8
    # A tie of two is wrong: more often than one worker. The proof says "of course".
    assert any_law.mean[1] > 1.5 * any_law.mean[0]
    for curve in bits.votes(config, worst=False):
        assert 0.15 < curve.ratio.min() and curve.ratio.max() < 0.6


def test_even_votes_err_more_often_than_one_worker_if_a_tie_is_an_error():
    odd, even = bits.repetition(sign.Config(most_workers=12))
    assert odd.ratio.max() == pytest.approx(1) and (odd.ratio[1:] < 1).all()
    assert even.ratio[0] == pytest.approx(2 - 0.01)  # 2q - q², at q = 0.01
    assert list(even.at) == [2, 4, 6, 8, 10, 12] and even.above(3).size


def test_remark_3_by_hand():
    found = bits.remark_3(sign.Config(samples=20_000, remark_workers=(1, 3, 31)))
    np.testing.assert_allclose(found.exact[:2], [0.1, 3 * 0.01 * 0.9 + 0.001])
    np.testing.assert_allclose(found.drawn[:2], found.exact[:2], atol=0.01)
    assert found.mean[2] == pytest.approx(1 - 0.9**31)


def test_lemma_7_is_exact_for_every_batch():
    found = chances.lemma_7(stochastic.Config(chances=(0.1, 0.5), shares=(0.5, 0.9)))
    assert (found.least > 0.5).all() and (found.needed <= np.ceil(found.enough)).all()
    # By all outcomes: P(1) = 0.1, else -b with b = 0.5 · 0.1/0.9.
    b, tau = 0.5 / 9, int(found.enough[0]) + 1
    right = sum(
        math.comb(tau, k) * 0.1**k * 0.9 ** (tau - k)
        for k in range(tau + 1) if k > (tau - k) * b
    )
    assert found.least[0] <= right + 1e-12
    assert found.mean[0] == pytest.approx(0.1 - 0.9 * b)
    # One rare value outweighs 18 others: 1 - 0.9^6 < 1/2 < 1 - 0.9^7.
    assert found.needed[0] == 7


def test_lemma_8_and_the_exponential():
    found = chances.lemma_8(stochastic.Config(most_votes=12))
    assert max(found.even, found.formula) < 1e-12 and found.library < 1e-5
    assert 0.9 < found.hoeffding <= 1


def test_moments_of_the_stochastic_sign():
    found = scaled.moments(stochastic.Config(samples=4000, dimension=6))
    assert found.mean < 5 and found.zero and found.norm < 1e-5
    np.testing.assert_allclose(found.variance, 1, atol=0.05)


# Verdicts.


def test_a_bound_that_is_too_small_is_reported(tmp_path, monkeypatch):
    config = feedback.Config(
        horizons=(16, 64), seeds=4, dimension=8, kept=(2,), error_kept=(2,),
        rates=(0.05,), fit_from=16,
        results=str(tmp_path),
    )
    ran = Smooth(config, lambda what: None)
    good = bounds.feedback
    for factor in (1, 1e3):  # and the proof's constant divided by a thousand
        monkeypatch.setattr(
            bounds, "feedback", lambda *a, **k: good(*a, **k) / factor)  # noqa: B023
        results = Results(tmp_path, "rates_feedback", config)
        compared = Comparison("theorem_ii", ran.theorem_ii(), config.errors)
        compared.judge(results)
        verdict = results.judged["theorem_ii"]
        assert compared.holds == (factor == 1)
        if factor == 1:
            assert verdict.verdict == "reproduced" and not verdict.why
        else:
            assert verdict.verdict == "not reproduced"
            assert "SGD, γ = 0.05: above the bound at 16, 64" in verdict.why
    lines = [json.loads(x) for x in results.metrics_path.open()]
    assert len(lines) == 4 * 2 and all(x["ratio"] > 1 for x in lines[:2])
    # What is measured is what it says: of the first point, before any step.
    first = (np.asarray(ran.problem.gradient(jnp.float32(ran.problem.start)))**2).sum()
    one = ran._simulation(lambda r, k: eo.ef_sgd(r, eo.identity()))
    assert one.run(1, 0.1, scale=1.0)["square"][0, 0] == pytest.approx(first, rel=1e-5)


def test_feedback_of_a_schedule_inside_option_2_never_moves():
    config = stochastic.Config(horizons=(16, 256))
    from experiments.rates.stochastic.descent import schedule_of_accepted_steps

    inside, outside = schedule_of_accepted_steps(config)
    np.testing.assert_allclose(inside.mean, 0.4 * config.first_rate, rtol=1e-6)
    assert inside.ratio[-1] > 1 >= outside.ratio.max()


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (feedback.Config, {"horizons": (8, 4)}, "horizons"),
        (feedback.Config, {"kept": (32,)}, "kept.* 31"),
        (feedback.Config, {"noise": 0.0}, "noise.* 0"),
        (feedback.Config, {"rates": (-1.0,)}, "rates"),
        (feedback.Config, {"seeds": 0}, "seeds.* 0"),
        (sign.Config, {"remark_workers": (1, 2)}, r"\[2\]"),
        (sign.Config, {"workers": ()}, "workers"),
        (sign.Config, {"noises": (1.0,)}, "noises"),
        (sign.Config, {"signum_horizons": (64,)}, "108"),
        (sign.Config, {"betas": (1.0,)}, "beta"),
        (stochastic.Config, {"multiples": (0.0, 1.0)}, "multiples"),
        (stochastic.Config, {"chances": (1.0,)}, "chances"),
        (stochastic.Config, {"dimension": 2}, "dimension.* 3"),
        (stochastic.Config, {"rate": math.inf}, "rate"),
    ],
)
def test_bad_configurations_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_every_number_of_a_criterion_is_in_the_configuration():
    from experiments._claims import claims_of

    for module in (feedback, sign, stochastic):
        for claim in claims_of(module.Config()):
            assert "{" not in claim.criterion, claim.key
    assert curves.summary([Comparison("key", [power(-0.5)], 3)]).count("power") == 1
