"""One page of all results: what the papers claim, and what came out here.

`python -m experiments report` reads experiments/published and writes report.md and
report.html there. With `--results results` it shows what was run last, unpublished.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

from experiments import _html
from experiments._claims import VERDICTS, Claim, Judged, claims_of
from experiments._folders import Folder, folders
from experiments._page import TITLE, Entry, page
from experiments._registry import STUDIES, StudyError, load

PUBLISHED = "experiments/published"


@dataclasses.dataclass(frozen=True)
class Config:
    """Assembles all studies' results into one page, report.md and report.html."""

    results: tuple[str, ...] = field(
        default=(PUBLISHED,),
        metadata={"help": "directories of results; of folders of one name the last "
                          "counts"},
    )
    output: str = field(
        default="", metadata={"help": "where the page goes; by default to the last of "
                                      "the results"},
    )
    embed: bool = field(
        default=False,
        metadata={"help": "put the images into report.html, to send it by itself"},
    )

    def __post_init__(self) -> None:
        """Fills in where the page goes."""
        if not self.results:
            raise ValueError("results must not be empty; name directories of results.")
        object.__setattr__(self, "output", self.output or self.results[-1])


def run(config: Config) -> list[Entry]:
    """Writes the page; returns the claims with their verdicts."""
    by_name = {
        folder.path.name: folder
        for root in config.results for folder in folders(pathlib.Path(root))
    }
    runs = [by_name[name] for name in sorted(by_name)]
    entries = list(judged(runs))
    output = pathlib.Path(config.output)
    text = page(entries, runs, output)
    html = _html.render(text, TITLE, output if config.embed else None)
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.md").write_text(text, encoding="utf-8")
        (output / "report.html").write_text(html, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"cannot write to {output}: {error}") from error
    words = [entry.judged.verdict for entry in entries]
    counts = ", ".join(f"{words.count(word)} {word}" for word in VERDICTS)
    print(f"{len(words)} claims: {counts}.")
    print(output / "report.md", output / "report.html", sep="\n")
    return entries


def judged(runs: Sequence[Folder]) -> Iterator[Entry]:
    """Returns all claims: of the results, and of studies without results."""
    for folder in runs:
        for key, claim in folder.claims.items():
            why = claim.not_run or "the run has not ended: it left no verdicts"
            verdict = (folder.judged or {}).get(key, Judged("not run", "", why))
            yield Entry(
                folder.study, claim, verdict, folder.saved["command"], folder
            )
    found = {(folder.study, key) for folder in runs for key in folder.claims}
    for study, claim in registered():
        if (study, claim.key) not in found:
            why = claim.not_run or "no results found"
            command = f"python -m experiments {study}"
            yield Entry(study, claim, Judged("not run", "", why), command)


def registered() -> Iterator[tuple[str, Claim]]:
    """Returns the claims of all registered studies, with the studies' names."""
    for study in STUDIES:
        config: Any = load(study)[1]
        if getattr(config, "CLAIMS", ()):
            for claim in claims_of(config()):
                yield study, claim
