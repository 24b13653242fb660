"""A small study with a claim of every verdict, and folders of its results."""

import dataclasses
from typing import ClassVar

import pytest
from PIL import Image

from experiments import _results
from experiments._claims import Claim
from experiments._registry import Study

# What Markdown and HTML would take for their own.
NASTY = "|x|₁ ≤ *a*_i < b & `a|b` [c](d) <b>$5$</b> ~e~ \\alpha #1"


@dataclasses.dataclass(frozen=True)
class Config:
    """A study."""

    CLAIMS: ClassVar = (
        Claim("late", "S", "Figure 8", "Last.", "a is {slope:g}", figure=""),
        Claim("rate", "K", "Theorem II", f"It falls: {NASTY}.", "slope {slope:g}"),
        Claim("image", "K", "Figures 3, 5", "It is stuck.", "stuck",
              reduced="one seed", figure="figure_more.png"),
        Claim("tight", "K", "Theorem II", "It is tight.", "within {slope:g}"),
        Claim("dense", "B", "Figure A.1", "It is dense.", "dense"),
        Claim("large", "B", "Figure 3", "It is large.", "never", not_run="no GPU"),
    )
    slope: float = -0.5
    seeds: tuple[int, ...] = (1, 2)
    data_dir: str | None = dataclasses.field(default=None, metadata={"place": True})
    results: str = "results"


@dataclasses.dataclass(frozen=True)
class Other:
    """A study that nobody has run."""

    CLAIMS: ClassVar = (Claim("open", "B", "Table 1", "Bits.", "32 times fewer"),)


class Drawing:
    """Stands for a figure; writes the smallest image."""

    def savefig(self, path, dpi):
        del dpi
        Image.new("RGB", (2, 2)).save(path)


class Module:
    """Stands for a study's module."""


STUDIES = {"toy": Study("toy", "a toy"), "other": Study("other", "another")}


def load(name):
    """In place of the registry's."""
    return Module, {"toy": Config, "other": Other}[name]


@pytest.fixture
def studies(monkeypatch):
    """Lets the toy and the other study be all there are, at a clean commit."""
    monkeypatch.setattr("experiments.report.STUDIES", STUDIES)
    monkeypatch.setattr("experiments.report.load", load)
    monkeypatch.setattr("experiments.publish.load", load)
    monkeypatch.setattr(_results, "commit", lambda: "0123456789ab")


def make(root, name="toy", finish=True, text="A summary.", losses=(), **changes):
    """Leaves results in a folder, as a study does."""
    config = Config(results=str(root), **changes)
    results = _results.Results(root, name, config, study="toy")
    results.metric(seed=1, losses=list(losses))
    results.figure(Drawing())
    results.figure(Drawing(), "more")
    if not finish:
        return results.path
    results.verdict("rate", True, "-0.51 ± 0.02 | a")
    results.verdict("image", True, "2.0 ± 0.0")
    results.verdict("tight", False, "3 ± 1", f"the bound is loose: {NASTY}")
    results.verdict("late", True, "1")
    results.verdict("dense", True, "0.6")
    results.finish(text)
    return results.path
