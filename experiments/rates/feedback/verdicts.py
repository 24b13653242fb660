"""Verdicts of the study of Karimireddy et al. that are not bounds alone."""

from __future__ import annotations

from typing import Any

from experiments._results import Results
from experiments.rates.curves import Comparison, Curve, shown


def of_remark_5(
    config: Any, results: Results, compared: Comparison, printed: Any,
    leading: Any, bare: Any,
) -> None:
    """Bounds, and how the leading term depends on κ with and without feedback."""
    compared.record(results)
    faults = [compared.why] if compared.why else []
    parts = []
    for k, (value, spread) in bare.items():
        kappa = config.dimension / k
        kept, kept_spread = leading[f"random-{k}"]
        parts.append(
            f"κ = {kappa:g}: {value:.2f} ± {spread:.2f} times SGD's leading term "
            f"without feedback, {kept:.3f} ± {kept_spread:.3f} with it"
        )
        if value < config.bare_factor * kappa:
            faults.append(f"only {value:.2f} without feedback at κ = {kappa:g}")
        if abs(kept - 1) > config.lead_tolerance:
            faults.append(f"{kept:.3f} with feedback at κ = {kappa:g}")
    number = (
        f"{compared.number}; {'; '.join(parts)}; of the bound with feedback as printed "
        f"at most {printed['Remark 5']:.3g}"
    )
    results.verdict("remark_5", not faults, number, "; ".join(faults))


def of_delta(
    config: Any, results: Results, gaps: dict[str, Curve], leading: Any, bare: Any
) -> None:
    """Slopes of distances to SGD, and leading terms; and that the test can fail."""
    faults, parts = [], []
    for name, curve in gaps.items():
        slope = curve.slope()
        k = name.split("-")[-1].split(",")[0]
        lead = bare[int(k)] if "no feedback" in name else leading[name]
        for i, at in enumerate(curve.at):
            results.metric(
                claim="delta_in_second_order", curve=name, at=at, mean=curve.mean[i],
                deviation=curve.deviation[i], slope=slope and slope[0], leading=lead[0],
            )
        parts.append(f"{name}: slope {shown(slope)}, {lead[0]:.3f} ± {lead[1]:.3f}")
        steep = slope is not None and slope[0] <= config.gap_slope
        near = abs(lead[0] - 1) <= config.lead_tolerance
        if "no feedback" in name:
            if steep or near:
                faults.append(f"{name} passes the test that it should fail")
        elif name != "scaled sign" and not (steep and near):
            faults.append(
                f"{name}: slope {shown(slope)}, leading term {lead[0]:.3f} of SGD's"
            )
    results.verdict(
        "delta_in_second_order", not faults,
        "slope of the distance to SGD, and leading term as a multiple of SGD's: "
        + "; ".join(parts),
        "; ".join(faults),
    )
