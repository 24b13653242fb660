"""What the papers claim, and by which criterion a study calls a claim reproduced."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

PAPERS = {
    "K": "Karimireddy et al. 2019",
    "B": "Bernstein et al. 2018",
    "S": "Safaryan & Richtárik 2019",
}

Verdict = Literal["reproduced", "reproduced in kind", "not reproduced", "not run"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Claim(NamedTuple):
    """A figure, table or statement of a paper, and when it counts as reproduced.

    A study's ``Config`` carries its claims as the class attribute ``CLAIMS``, so that
    they are fixed, and written to config.json, before anything runs.

    Attributes:
      key: short and unique within the study.
      paper: K, B or S, see `PAPERS`.
      where: in the paper, like "Figure 3".
      says: what the paper claims, with its numbers.
      criterion: what must hold here. Fields of the configuration stand in braces, so
        that the numbers of the criterion are part of it: "at most {tolerance:g}".
      reduced: what is smaller here than in the paper; the verdict is then at best
        "reproduced in kind".
      not_run: why it is not run here, if so. Where a study runs it after all, its
        verdict counts.
      figure: the study's file that shows it; empty if none does.
    """

    key: str
    paper: Literal["K", "B", "S"]
    where: str
    says: str
    criterion: str
    reduced: str = ""
    not_run: str = ""
    figure: str = "figure.png"


class Judged(NamedTuple):
    """A claim's verdict.

    Attributes:
      verdict: the word.
      number: what was measured, with its deviation over seeds.
      why: of a verdict that is not plainly "reproduced".
    """

    verdict: Verdict
    number: str
    why: str


def claims_of(config: Any) -> tuple[Claim, ...]:
    """Returns the claims of a configuration, their criteria with its numbers.

    Raises:
      ValueError: if two claims have one key, a paper is unknown, or a criterion names
        what is no field of the configuration.
    """
    values = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config)
    }
    claims: dict[str, Claim] = {}
    for claim in getattr(config, "CLAIMS", ()):
        if claim.key in claims:
            raise ValueError(f"two claims have the key {claim.key!r}.")
        if claim.paper not in PAPERS:
            known = ", ".join(PAPERS)
            raise ValueError(
                f"claim {claim.key!r} is of paper {claim.paper!r}; there are: {known}."
            )
        try:
            criterion = claim.criterion.format(**values)
        except (LookupError, ValueError, TypeError) as error:
            raise ValueError(
                f"criterion of claim {claim.key!r}: {error!r}; in braces stand fields "
                f"of the configuration: {', '.join(values)}."
            ) from error
        claims[claim.key] = claim._replace(criterion=criterion)
    return tuple(claims.values())


def judge(claim: Claim, holds: bool, number: str, why: str = "") -> Judged:
    """Returns the verdict of a claim whose criterion holds or does not.

    Raises:
      ValueError: if a claim that does not hold comes without an analysis.
    """
    if claim.not_run and not number:
        return Judged("not run", "", claim.not_run)
    if not holds:
        if not why:
            raise ValueError(f"claim {claim.key!r} does not hold: say why.")
        return Judged("not reproduced", number, why)
    if claim.reduced:
        return Judged("reproduced in kind", number, "; ".join(
            filter(None, (f"reduced: {claim.reduced}", why))
        ))
    return Judged("reproduced", number, why)
