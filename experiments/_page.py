"""The page that sets what the papers claim beside what came out here, in Markdown."""

from __future__ import annotations

import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from experiments._claims import VERDICTS, Claim, Judged
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
    def items(self) -> tuple[str, ...]:
        """What it is of; a section only where it names nothing else."""
        where = " ".join(self.claim.where.split())
        named = items(where) or (where,)
        parts = ("Section", "Appendix")
        return tuple(x for x in named if not x.startswith(parts)) or named[:1]

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
    every = list(entries)
    parts = [f"# {TITLE}", INTRODUCTION, _counts(every), "## Contents"]
    sections = []
    for paper, short in SHORT.items():
        by_item = _by_item(paper, every)
        if by_item:
            parts += [f"**{_to(short)}**", _contents(by_item)]
            sections += [f"## {short}", escape(CITATIONS[paper])]
            sections += _sections(paper, by_item, root)
    if runs:
        sections += ["## Runs", _runs(runs, root)]
    return "\n\n".join([*parts, *sections]) + "\n"


def escape(text: str) -> str:
    """Returns a text that Markdown shows as it is, but for `code` in backticks."""
    return _apart(" ".join(text.split()), _escape, lambda code: code)


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
    return re.sub(r"([*`\[\]<~])", r"\\\1", text.replace("&", "&amp;")).replace(
        "$", "&#36;"
    )


def _to(heading: str) -> str:
    return f"[{escape(heading)}](#{slug(heading)})"


def _apart(
    text: str, change: Callable[[str], str], change_code: Callable[[str], str]
) -> str:
    """Returns a text changed, and its `code` in another way."""
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        (change_code if number % 2 else change)(piece)
        for number, piece in enumerate(pieces)
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; unlike `_results.table` it need not read well as plain text."""

    def cell(text: str) -> str:
        # A | would end it, within code too.
        return _apart(
            text, lambda part: part.replace("|", "&#124;"),
            lambda code: code.replace("|", "\\|"),
        )

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


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


def _by_item(paper: str, entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Returns the entries of a paper by what they are of, in its order."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.claim.paper == paper:
            for item in entry.items:
                found.setdefault(item, []).append(entry)
    return {item: found[item] for item in sorted(found, key=partial(position, paper))}


def _contents(by_item: dict[str, list[Entry]]) -> str:
    """Returns what of a paper is claimed, with links to the verdicts."""
    rows = [(escape(item), _links(several)) for item, several in by_item.items()]
    return _table(("in the paper", "verdicts"), rows)


def _links(entries: Iterable[Entry]) -> str:
    return " · ".join(
        f"{MARKS[entry.judged.verdict]} {_to(entry.name)}" for entry in entries
    )


def _sections(
    paper: str, by_item: dict[str, list[Entry]], root: pathlib.Path
) -> list[str]:
    """Returns a section for all that is claimed of a paper.

    A claim stands where the first is that it names, and the others lead there. A figure
    is shown once, if possible in the section of a figure.
    """
    hosts: dict[pathlib.Path, str] = {}
    for item in sorted(by_item, key=lambda item: not item.startswith("Figure")):
        for entry in by_item[item]:
            if entry.figure is not None and item == entry.items[0]:
                hosts.setdefault(entry.figure, item)
    parts = []
    for item, several in by_item.items():
        parts.append(f"### {escape(_heading(paper, item))}")
        own = [entry for entry in several if entry.items[0] == item]
        for number, entry in enumerate(own):
            parts += [f"#### {escape(entry.name)}", _verdict(entry)]
            parts.append(_facts(entry, root))
            following = [e.figure for e in own[number + 1 :]]
            if entry.figure is None or entry.figure in following:
                continue
            host = hosts[entry.figure]
            if host == item:
                caption = escape(f"{_heading(paper, item)}: {entry.name}")
                parts.append(f"![{caption}]({link(entry.figure, root)})")
            else:
                parts.append(f"Figure: see {_to(_heading(paper, host))}.")
        others = [entry for entry in several if entry not in own]
        if others:
            parts.append(f"{'See also' if own else 'See'} {_links(others)}")
    return parts


def _heading(paper: str, item: str) -> str:
    return f"{SHORT[paper]}, {item}"


def _verdict(entry: Entry) -> str:
    mark, word = MARKS[entry.judged.verdict], WORDS[entry.judged.verdict]
    where = " ".join(entry.claim.where.split())
    of = f" · {escape(where)}" if (where,) != entry.items else ""
    return f"{mark} **{word}**{of}"


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
