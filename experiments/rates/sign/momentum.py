"""Theorem 3 of Bernstein et al.: Signum, through Lemmas E.1 and F.2."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import ef_optax
from experiments.rates import bounds
from experiments.rates.curves import Curve
from experiments.rates.sign.descent import Tick, bowl
from experiments.rates.simulate import Simulation, Step


def theorem_3(config: Any, tick: Tick) -> tuple[list[Curve], list[Curve]]:
    """Signum with steps δ/√(k+1), batches k + 1 and the warm-up C(β).

    Returns:
      The mean ‖g_k‖₁ over C ≤ k < K under Lemma E.1, and ‖m̃_k - g_k‖₁ under F.2.
    """
    problem, theorem, lemma = bowl(config), [], []
    smoothness = float(problem.smooth.sum())
    for beta in config.betas:
        warmup = ef_optax.signum_warmup_steps(beta)
        at = np.asarray([k for k in config.signum_horizons if k > 2 * warmup])
        tick(f"Theorem 3, β = {beta:g}")

        def make(rate: Any, key: Any, beta: float = beta, warmup: int = warmup) -> Any:
            del key
            return ef_optax.signum(rate, beta, warmup_steps=warmup)

        def measure(step: Step, beta: float = beta) -> dict[str, jax.Array]:
            average = optax.tree_utils.tree_get(step.state, "ema")
            average = average / (1 - beta**step.count)
            return {
                "norm": jnp.sum(jnp.abs(step.gradient)),
                "off": jnp.sum(jnp.abs(average - step.gradient)),
                "value": problem.value(step.x),
            }

        simulation = Simulation(problem, make, measure, config.seeds)
        for scale in config.signum_noises:
            label = f"β = {beta:g} (C = {warmup}), σ = {scale:g}"
            measured = simulation.run(
                int(at[-1]), config.signum_rate, scale=scale, decay=0.5, growth=1.0
            )
            sums = np.cumsum(measured["norm"][warmup:], axis=0)
            runs = np.stack([sums[k - warmup - 1] / (k - warmup) for k in at], axis=1)
            gap = measured["value"][warmup].mean() - problem.minimum
            constants = (
                beta, config.signum_rate, smoothness, scale * config.dimension
            )
            # The theorem's rate, in K = √N.
            rate = (1 + 2 * np.log(at)) / np.sqrt(at)
            theorem.append(Curve(
                label, at, runs, bounds.signum(at, warmup, gap, *constants), rate,
                config.fit_from,
            ))
            k = np.asarray([warmup, *(at - 1)])
            lemma.append(Curve(
                label, k, measured["off"][k].T, bounds.momentum_error(k, *constants)
            ))
    return theorem, lemma
