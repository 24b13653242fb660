"""The theorems' right-hand sides against sums written out, in float64."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from experiments.rates import bounds, laws


@pytest.mark.parametrize("delta", [0.5, 0.1, 1 / 64])
def test_lemma_3_is_what_its_recursion_tends_to(delta):
    eta = delta / (2 * (1 - delta))
    rate, moment, mean, sure = 0.3, 7.0, 0.0, 0.0
    for _ in range(int(400 / delta)):
        mean = (1 - delta) * ((1 + eta) * mean + (1 + 1 / eta) * rate**2 * moment)
        sure = math.sqrt(1 - delta) * (sure + rate * 2.0)
    assert bounds.error_norm(delta, rate, moment, tight=True) == pytest.approx(mean)
    assert mean <= bounds.error_norm(delta, rate, moment)
    assert bounds.error_norm(delta, rate, moment) == pytest.approx(
        4 * (1 - delta) * 0.09 * 7 / delta**2)
    assert bounds.error_norm_surely(delta, rate, 2.0) == pytest.approx(sure)
    assert bounds.error_norm(1.0, rate, moment) == 0


def test_theorem_ii_is_the_proof_with_rho_one():
    n, rate, delta, gap, smooth, moment = 500, 0.03, 0.2, 11.0, 1.7, 40.0
    # E f(x̃_{t+1}) - E f(x̃_t) ≤ -γ(1-ρ/2)‖∇f‖² + Lγ²σ²/2 + γL²/(2ρ) ‖e‖², summed.
    error = 4 * (1 - delta) / delta**2 * rate**2 * moment
    total = gap + n * (smooth * rate**2 * moment / 2 + rate * smooth**2 / 2 * error)
    assert bounds.feedback(n, rate, delta, gap, smooth, moment) == pytest.approx(
        total / (rate * 0.5 * n))
    printed = bounds.feedback(n, rate, delta, gap, smooth, moment, printed=True)
    late = 4 * rate**2 * smooth**2 * moment * (1 - delta) / delta**2
    assert printed == pytest.approx(
        2 * gap / (rate * n) + rate * smooth * moment / 2 + late)


def test_remarks_4_and_5_are_theorem_ii_at_their_rate():
    n, gap, smooth, moment = 400, 11.0, 1.7, 40.0
    root = 20.0
    assert bounds.descent(n, 1 / root, gap, smooth, moment) == pytest.approx(
        (2 * gap + smooth * moment) / (2 * root))
    for kappa in (2.0, 8.0):
        late = bounds.feedback(n, 1 / root, 1 / kappa, 0.0, smooth, moment)
        late -= smooth * moment / root
        assert late == pytest.approx(
            4 * smooth**2 * moment * kappa * (kappa - 1) / n)
        printed = bounds.unbiased_as_printed(n, kappa, gap, smooth, moment)
        assert printed == pytest.approx(
            (4 * gap + smooth * moment) / (2 * root)
            + 2 * smooth**2 * moment * kappa**2 / n)


@pytest.mark.parametrize("delta", [1.0, 0.3, 0.05])
def test_remark_6_is_theorem_iii_at_its_best(delta):
    n, distance, moment = 300, 3.0, 20.0

    def at(log_rate):
        return bounds.feedback_convex(n, math.exp(log_rate), delta, distance, moment)

    found = scipy.optimize.minimize_scalar(at, bounds=(-12, 3), method="bounded",
                                           options={"xatol": 1e-9})
    best = bounds.best_rate_convex(n, delta, distance, moment)
    assert best == pytest.approx(math.exp(found.x), rel=1e-4)
    least = bounds.feedback_convex_best(n, delta, distance, moment)
    assert least == pytest.approx(found.fun)
    # The printed theorem is larger, its remark smaller than its own best.
    printed = bounds.feedback_convex(n, best, delta, distance, moment, printed=True)
    assert printed > least
    remark = bounds.feedback_convex_best(n, delta, distance, moment, printed=True)
    assert remark == pytest.approx(distance * math.sqrt(
        moment * (1 + 2 * math.sqrt(1 - delta) / delta) / n))
    assert remark <= least
    # Of ‖x̃ - x*‖² as the proof should sum it, with ‖e‖ ≤ 2γσ√(1-δ)/δ.
    error = 2 * best * math.sqrt(moment * (1 - delta)) / delta
    summed = distance**2 / (2 * best * n) + best * moment / 2 + math.sqrt(moment) * (
        error)
    assert bounds.feedback_convex(
        n, best, delta, distance, moment) == pytest.approx(summed)


def test_theorems_1_and_2_of_bernstein():
    # One step: δ‖g‖ ≤ f_k - f_{k+1} + δ²‖L‖/2 + 2δ‖σ‖/√n; K steps with n = K.
    k, gap, smooth, spread = 256, 5.0, 8.0, 30.0
    rate = 1 / math.sqrt(smooth * k)
    for workers in (1, 9):
        summed = gap + k * (
            rate**2 * smooth / 2 + 2 * rate * spread / math.sqrt(k * workers))
        assert bounds.sign(k, gap, smooth, spread, workers) == pytest.approx(
            summed / (rate * k))
    for large, rate, n in ((True, 1 / smooth, k), (False, 1 / (smooth * 16), 1)):
        # -δ‖g‖²(1 - δL/2) + δ²Lσ²/(2n); the proof uses 1 - δL/2 ≥ ½.
        summed = gap + k * rate**2 * smooth * spread / (2 * n)
        assert bounds.sgd(k, gap, smooth, spread, large) == pytest.approx(
            summed / (rate * 0.5 * k))


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_lemma_f2_follows_from_its_steps(beta):
    import ef_optax as eo

    warmup, rate, smooth, spread = eo.signum_warmup_steps(beta), 0.2, 3.0, 4.0
    for k in (warmup, warmup + 1, 3 * warmup + 5, 800):
        t = np.arange(k + 1)
        weights = (1 - beta) / (1 - beta ** (k + 1)) * beta**t
        noise = math.sqrt((weights**2 / (k - t + 1)).sum()) * spread
        # ‖g_{k-t} - g_k‖₁ ≤ Σ 2δ_j ‖L‖₁ over the steps between.
        rates = rate / np.sqrt(np.arange(k) + 1)
        gone = 2 * smooth * np.concatenate([[0], np.cumsum(rates[::-1])])
        bias = (weights * gone).sum()
        assert bias + noise <= bounds.momentum_error(k, beta, rate, smooth, spread)
    assert bounds.momentum_error(3, 0.5, 0.2, 3.0, 4.0) == pytest.approx(
        8 * 3 * 0.2 * 1 + math.sqrt(3) * 4 * math.sqrt(0.5))


def test_lemma_e1_is_summed_as_it_says():
    warmup, gap, beta, rate, smooth, spread = 3, 2.0, 0.8, 0.1, 5.0, 6.0
    steps = np.array([5, 9, 40])
    got = bounds.signum(steps, warmup, gap, beta, rate, smooth, spread)
    for k, value in zip(steps, got, strict=True):
        total, least = gap, math.inf
        for j in range(warmup, k):
            step = rate / math.sqrt(j + 1)
            total += 2 * step * bounds.momentum_error(j, beta, rate, smooth, spread)
            total += step**2 * smooth / 2
            least = min(least, step)
        assert value == pytest.approx(total / ((k - warmup) * least))


def test_lemma_d1_is_gausss_inequality_and_sharp():
    s = np.geomspace(0.01, 10, 200)
    bound = bounds.wrong_sign(s)
    np.testing.assert_allclose(laws.worst_unimodal(s), bound, rtol=1e-12)
    # Over all widths of the uniform part.
    b = np.geomspace(1.7320509, 100, 4000)[:, None]
    wrong = np.where(b > s, 3 / b**2 * (1 - s / b) / 2, 0)
    assert (wrong <= bound * (1 + 1e-12)).all()
    np.testing.assert_allclose(wrong.max(0), bound, rtol=2e-3)
    edge = 2 / math.sqrt(3)
    assert bounds.wrong_sign(edge - 1e-9) == pytest.approx(1 / 6)
    assert bounds.wrong_sign(edge + 1e-9) == pytest.approx(1 / 6)
    # Nested: D.1 is the tightest, then the improved Lemma 1, then Lemma 1.
    improved, plain = 1 - bounds.right_sign(s, True), 1 - bounds.right_sign(s)
    assert (bound <= improved).all() and (improved <= plain).all()
    assert plain[0] == pytest.approx(0.5 - 0.5 * s[0] / (s[0] + math.sqrt(3)))
    assert bounds.right_sign(math.sqrt(3), True) == pytest.approx(5 / 6)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 10])
def test_votes_are_summed_exactly(workers):
    p = Fraction(7, 10)
    law = [math.comb(workers, z) * p**z * (1 - p) ** (workers - z)
           for z in range(workers + 1)]
    wrong = sum(x for z, x in enumerate(law) if 2 * z <= workers)
    right = sum(x for z, x in enumerate(law) if 2 * z > workers)
    against = sum(x for z, x in enumerate(law) if 2 * z < workers)
    assert bounds.wrong_vote(workers, 0.3) == pytest.approx(float(wrong), rel=1e-12)
    assert bounds.vote_weight(workers, 0.7) == pytest.approx(
        float(right - against), rel=1e-12)


def test_safaryan_and_richtarik_sum_their_steps():
    gap, smooth, rate = 5.0, 8.0, 0.3
    for steps in (2, 30, 3000):
        k = np.arange(steps)
        gamma = rate / np.sqrt(k + 1)
        weighted = (gap + smooth / 2 * (gamma**2).sum()) / gamma.sum()
        assert weighted <= bounds.decreasing(steps, rate, gap, smooth)
        # Option 2: with falling f the first terms telescope to √K (f₀ - f*)/γ₀.
        mean = gap * math.sqrt(steps) / rate / steps + smooth / 2 * gamma.mean()
        assert mean <= bounds.decreasing_accepted(steps, rate, gap, smooth)
    assert bounds.decreasing(100, rate, gap, smooth) == pytest.approx(
        (gap / rate + rate * smooth) / 10 + rate * smooth * math.log(100) / 20)
    assert bounds.decreasing_accepted(100, rate, gap, smooth) == pytest.approx(
        (gap / rate + rate * smooth) / 10)
    best = math.sqrt(2 * gap / (smooth * 64))
    assert bounds.constant(64, best, gap, smooth) == pytest.approx(
        math.sqrt(2 * smooth * gap / 64))
    assert bounds.stochastic_sign(64, 0.1, gap, smooth, 3.0, 20) == pytest.approx(
        gap / 6.4 + 0.1 * smooth * 3 * 20 / 2)


def test_appendix_e_crosses_at_its_threshold():
    d, smooth, moment = 20, 1.9, 30.0
    for printed, wanted in ((True, 1 / (8 * 20 * 1.9)), (False, 18 / (8 * 380 * 1.9))):
        rate = bounds.threshold(d, smooth, printed)
        assert rate == pytest.approx(wanted)
        for factor, better in ((0.99, False), (1.01, True)):
            ours = bounds.stochastic_sign(1, factor * rate, 0, smooth, moment, d)
            theirs = bounds.feedback(
                1, factor * rate, 1 / d, 0, smooth, moment, printed)
            assert (ours < theirs) == better


def test_lemma_7_by_hand():
    # 50 with probability 0.1, else -1: 4.1, 0.09 · 51², and the third moment.
    third = 0.1 * 45.9**3 + 0.9 * 5.1**3
    assert bounds.enough_samples(4.1, 0.09 * 51**2, third) == pytest.approx(
        2 * third / (4.1 * 0.09 * 51**2))
    assert bounds.enough_samples(-1.0, 0.25, 10.0) == pytest.approx(0.5)


def test_laws_have_mean_0_and_variance_1():
    import jax

    for law in laws.UNIMODAL[:3]:
        samples = np.asarray(law.draw(jax.random.key(1), (40_000,)), np.float64)
        assert abs(samples.mean()) < 0.03
        assert abs(np.median(samples)) < 0.03
        assert samples.var() == pytest.approx(1, rel=0.05)
        s = np.array([0.1, 0.7, 2.0])
        share = (samples[:, None] <= -s).mean(0)
        np.testing.assert_allclose(share, law.wrong(s), atol=0.012)
    # Student's law, exactly: F(t) = ½ + (t/√3/(1 + t²/3) + atan(t/√3))/π.
    s = np.array([0.1, 1.0, 3.0])
    np.testing.assert_allclose(
        laws.UNIMODAL[3].wrong(s),
        0.5 - (s / (1 + s**2) + np.arctan(s)) / math.pi, rtol=1e-9)


def test_estimates_that_are_off_are_seen():
    found = laws.drawn(laws.UNIMODAL[0], np.array([0.1, 1.0]), 20_000, 0)
    assert laws.most_errors_off(found) < 4
    shifted = found._replace(estimate=found.estimate + 0.03)
    assert laws.most_errors_off(shifted) > 5
    sure = laws.Drawn(np.array([0.9]), np.array([1.0]), np.array([0.0]))
    assert laws.most_errors_off(sure) == math.inf
