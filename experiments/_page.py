"""The page that sets what the papers claim beside what came out here, in Markdown."""

from __future__ import annotations

import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote

from experiments._claims import PAPERS, VERDICTS, Claim, Judged
from experiments._folders import Folder
from experiments._papers import CITATIONS, SHORT, items, position

TITLE = "The papers, reproduced"
MARKS = {"reproduced": "✓", "reproduced in kind": "≈", "not reproduced": "✗",
         "not run": "–"}
WORDS = {word: word for word in VERDICTS} | {
    "reproduced in kind": "reproduced in kind at reduced scale"
}
INTRODUCTION = """\
What three papers on compressed gradients claim, in their order, and what came out here.
The criterion of every verdict stood in the study's configuration before the run, and a
claim that did not hold is shown as it is. Numbers are mean ± standard deviation over
seeds where they have one. Each entry has the command and the commit that made it.
`make report` builds this page anew from the files that stand beside it.

- ✓ **reproduced**: the criterion holds.
- ≈ **reproduced in kind at reduced scale**: it holds on something smaller than in the
  paper; what is smaller stands there.
- ✗ **not reproduced**: it does not hold; why stands there.
- – **not run**: there is no result; why stands there."""


class Entry(NamedTuple):
    """A claim with what became of it.

    Attributes:
      study: the name that the command line knows.
      claim: its criterion with the numbers of the run.
      judged: its verdict.
      command: which gives the result.
      folder: with the results; None if there are none.
    """

    study: str
    claim: Claim
    judged: Judged
    command: str
    folder: Folder | None = None

    @property
    def name(self) -> str:
        """The names of the folder, or of the study if there is none, and the claim."""
        folder = self.folder.path.name if self.folder else self.study
        return f"{folder}: {self.claim.key}"

    @property
    def figure(self) -> pathlib.Path | None:
        """The file that shows it, if there is one."""
        if self.folder is None or not self.claim.figure:
            return None
        path = self.folder.path / self.claim.figure
        return path if path.is_file() else None


def page(entries: Iterable[Entry], runs: Sequence[Folder], root: pathlib.Path) -> str:
    """Returns the page.

    Args:
      entries: of all claims, in any order.
      runs: all results, those without claims too.
      root: where the page will be; links start there.
    """
    ordered = sorted(
        entries, key=lambda e: (list(PAPERS).index(e.claim.paper),
                                position(e.claim.paper, e.claim.where))
    )
    parts = [f"# {TITLE}", INTRODUCTION, _counts(ordered), "## Contents"]
    sections = []
    for paper, of_paper in groupby(ordered, key=lambda entry: entry.claim.paper):
        several = list(of_paper)
        parts += [f"**{_to(SHORT[paper])}**", _contents(several)]
        sections += [f"## {SHORT[paper]}", escape(CITATIONS[paper])]
        sections += _entries(several, root)
    if runs:
        sections += ["## Runs", _runs(runs, root)]
    return "\n\n".join([*parts, *sections]) + "\n"


def escape(text: str) -> str:
    """Returns a text that Markdown shows as it is, but for `code` in backticks."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(
        piece if number % 2 else _escape(piece) for number, piece in enumerate(pieces)
    )


def slug(heading: str) -> str:
    """Returns the anchor that GitHub gives to a heading."""
    # Ruby's word characters, which unlike Python's are no superscripts.
    kept = [
        letter for letter in heading.lower()
        if letter in "- " or unicodedata.category(letter)[0] in "LM"
        or unicodedata.category(letter) in ("Nd", "Pc")
    ]
    return "".join(kept).replace(" ", "-")


def link(path: pathlib.Path, root: pathlib.Path) -> str:
    """Returns the address of a file as seen from the page."""
    relative = os.path.relpath(path.resolve(), root.resolve())
    return quote(pathlib.PurePath(relative).as_posix())


def _escape(text: str) -> str:
    # An underscore within a word is none of Markdown's, so that names stay legible.
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", re.sub(r"\\", r"\\\\", text))
    return re.sub(r"([*`\[\]<>|~])", r"\\\1", text.replace("&", "&amp;")).replace(
        "$", "&#36;"
    )


def _to(heading: str) -> str:
    return f"[{escape(heading)}](#{slug(heading)})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; unlike `_results.table` it need not read well as plain text."""

    def line(cells: Sequence[str]) -> str:
        # A cell ends at any | that is not escaped, within code too.
        whole = (re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells)
        return f"| {' | '.join(whole)} |"

    return "\n".join(map(line, [header, ["---"] * len(header), *rows]))


def _counts(entries: Sequence[Entry]) -> str:
    """Returns how many claims of each paper have which verdict."""

    def row(name: str, several: Sequence[Entry]) -> list[str]:
        words = [entry.judged.verdict for entry in several]
        return [name, str(len(words)), *(str(words.count(word)) for word in VERDICTS)]

    header = ["paper", "claims", *(f"{MARKS[word]} {word}" for word in VERDICTS)]
    rows = []
    for paper, short in SHORT.items():
        several = [entry for entry in entries if entry.claim.paper == paper]
        if several:
            rows.append(row(_to(short), several))
    return _table(header, [*rows, row("all", entries)])


def _contents(entries: Sequence[Entry]) -> str:
    """Returns what of a paper is claimed, in its order, with links to the verdicts."""
    by_item: dict[str, list[str]] = {}
    for entry in entries:
        text = f"{MARKS[entry.judged.verdict]} {_to(entry.name)}"
        for item in items(entry.claim.where) or (escape(entry.claim.where),):
            by_item.setdefault(item, []).append(text)
    paper = entries[0].claim.paper
    ordered = sorted(by_item, key=lambda item: position(paper, item))
    rows = [(item, " · ".join(by_item[item])) for item in ordered]
    return _table(("in the paper", "verdicts"), rows)


def _heading(entry: Entry) -> str:
    return f"{SHORT[entry.claim.paper]}, {' '.join(entry.claim.where.split())}"


def _entries(entries: Sequence[Entry], root: pathlib.Path) -> list[str]:
    """Returns the sections of a paper; a figure is shown where it first occurs."""
    parts = []
    shown: dict[pathlib.Path, str] = {}
    for heading, several in groupby(entries, key=_heading):
        parts.append(f"### {escape(heading)}")
        together = list(several)
        for number, entry in enumerate(together):
            parts += [f"#### {escape(entry.name)}", _verdict(entry)]
            parts.append(_facts(entry, root))
            following = [e.figure for e in together[number + 1 :]]
            if entry.figure is None or entry.figure in following:
                continue
            if entry.figure not in shown:
                parts.append(f"![{_caption(entry)}]({link(entry.figure, root)})")
                shown[entry.figure] = heading
            elif shown[entry.figure] != heading:
                parts.append(f"Figure: see {_to(shown[entry.figure])}.")
    return parts


def _verdict(entry: Entry) -> str:
    mark, word = MARKS[entry.judged.verdict], WORDS[entry.judged.verdict]
    return f"{mark} **{word}**"


def _facts(entry: Entry, root: pathlib.Path) -> str:
    claim, judged = entry.claim, entry.judged
    why = judged.why
    if judged.verdict == "reproduced in kind":
        # Which `_claims.judge` puts before what the study had to say.
        why = why.removeprefix(f"reduced: {claim.reduced}").removeprefix("; ")
    negative = judged.verdict in ("not reproduced", "not run")
    lines = [
        ("The paper", claim.says),
        ("Criterion", claim.criterion),
        ("Here", judged.number),
        ("Reduced", claim.reduced),
        ("Why" if negative else "Note", why),
    ]
    text = "\n".join(f"- **{name}:** {escape(said)}" for name, said in lines if said)
    return text + f"\n- **Run:** `{entry.command}`" + _provenance(entry.folder, root)


def _provenance(folder: Folder | None, root: pathlib.Path) -> str:
    if folder is None:
        return ""
    return f" at commit {escape(folder.saved['commit'])}{_files(folder, root)}"


def _files(folder: Folder, root: pathlib.Path) -> str:
    names = {"summary": "summary.md", "configuration": "config.json",
             "metrics": "metrics.jsonl"}
    links = [
        f"[{name}]({link(folder.path / file, root)})"
        for name, file in names.items() if (folder.path / file).is_file()
    ]
    return f" ({', '.join(links)})" if links else ""


def _caption(entry: Entry) -> str:
    return escape(f"{_heading(entry)}: {entry.name}")


def _runs(runs: Sequence[Folder], root: pathlib.Path) -> str:
    """Returns where all results came about."""
    rows = []
    for folder in runs:
        made = folder.saved["environment"]
        device = f"{made.get('devices', '?')} × {made.get('device', '?')}"
        rows.append((
            f"`{folder.path.name}`{_files(folder, root)}",
            f"`{folder.saved['command']}`",
            escape(folder.saved["commit"]), escape(device),
            f"{made.get('cpus', '?')}", f"JAX {made.get('jax', '?')}",
        ))
    return _table(("results", "command", "commit", "devices", "cores", "with"), rows)
