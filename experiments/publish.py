"""Copies results of studies to experiments/published, small and without paths.

`python -m experiments publish NAME...` takes config.json, verdicts.json, summary.md,
the figures and metrics.jsonl from the folders results/NAME, each made by a whole run of
code that was committed. Long lists in metrics.jsonl are thinned to evenly spaced values
with the first and the last; "thinned" in such a line says how long they were.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
import sys
from dataclasses import field
from typing import Any

from experiments import _folders
from experiments._claims import claims_of
from experiments._cli import fields
from experiments._folders import Folder
from experiments._provenance import is_place
from experiments._registry import StudyError, load
from experiments._thin import smaller_figure, thinned_metrics
from experiments.report import PUBLISHED

# Directories of one machine, which no published file may name.
PATHS = re.compile(
    r"(?<![\w.:/~-])(?:/(?:home|root|Users|tmp|var|mnt|opt|scratch|data|work)/[\w.]"
    r"|[A-Z]:\\)"
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Copies results of studies to experiments/published, small and without paths."""

    names: tuple[str, ...] = field(
        default=(),
        metadata={"positional": True, "help": "folders of results, such as quickstart"},
    )
    results: str = field(default="results", metadata={"help": "where they are"})
    output: str = field(default=PUBLISHED, metadata={"help": "where they go"})
    replace: bool = field(
        default=False,
        metadata={"help": "in place of results of another configuration"},
    )
    allow_dirty: bool = field(
        default=False,
        metadata={"help": "though the code was not as it was committed"},
    )
    figure_kb: int = field(
        default=600,
        metadata={"help": "what a figure may take; larger ones lose colours"},
    )
    metrics_kb: int = field(
        default=300, metadata={"help": "what metrics.jsonl may take"}
    )
    line_numbers: int = field(
        default=300, metadata={"help": "how many numbers a line of it may have"}
    )

    def __post_init__(self) -> None:
        """Refuses limits that nothing can meet."""
        if min(self.figure_kb, self.metrics_kb, self.line_numbers) < 1:
            raise ValueError(
                "figure_kb, metrics_kb and line_numbers must be at least 1; got "
                f"{self.figure_kb}, {self.metrics_kb} and {self.line_numbers}."
            )


def run(config: Config) -> list[pathlib.Path]:
    """Publishes all or, if one cannot be, none; returns the folders."""
    results, output = pathlib.Path(config.results), pathlib.Path(config.output)
    if not config.names:
        there = [folder.path.name for folder in _folders.folders(results)]
        raise StudyError(
            f"which results? Name some of {results}, as in publish quickstart; there "
            f"are: {', '.join(there) or 'none'}."
        )
    new = {output / name: _files(results / name, config) for name in config.names}
    for target, files in new.items():
        _refuse_another(target, files, config.replace)
    for target, files in new.items():
        try:
            _write(target, files)
        except OSError as error:
            raise StudyError(f"cannot write to {target}: {error}") from error
        total = sum(map(len, files.values()))
        print(f"{target}: {len(files)} files, {total / 1000:.0f} kB")
    print("The page is built anew by: python -m experiments report")
    return list(new)


def _files(path: pathlib.Path, config: Config) -> dict[str, bytes]:
    """Returns what is published of a folder, by the names of the files."""
    folder = _folders.read(path)
    own = load(folder.study)[1]
    _refuse_dirty(folder, config.allow_dirty)
    if folder.claims and folder.judged is None:
        raise StudyError(
            f"{path} has no verdicts: the run has not ended, or failed; run it again."
        )
    names = ["summary.md", "metrics.jsonl", "verdicts.json"]
    files = {}
    for name in names if folder.claims else names[:2]:
        try:
            files[name] = (path / name).read_bytes()
        except OSError as error:
            raise StudyError(f"cannot read {path / name}: {error}") from error
    files["metrics.jsonl"] = thinned_metrics(
        files["metrics.jsonl"], path / "metrics.jsonl",
        config.line_numbers, 1000 * config.metrics_kb,
    )
    for figure in sorted(path.glob("*.png")):
        files[figure.name] = smaller_figure(figure, 1000 * config.figure_kb)
    for key, claim in folder.claims.items():
        ran = folder.judged is not None and folder.judged[key].verdict != "not run"
        if ran and claim.figure and claim.figure not in files:
            raise StudyError(f"{path} lacks {claim.figure}, which shows claim {key!r}.")
    places = {f.name for f in fields(own) if is_place(f)}
    kept = {k: v for k, v in folder.saved["config"].items() if k not in places}
    content = json.dumps(folder.saved | {"config": kept}, indent=2)
    files["config.json"] = (content + "\n").encode()
    hidden = [folder.saved["config"].get(name) for name in places]
    refuse_paths(path, files, [str(text) for text in hidden if text])
    _tell_of_changes(folder, own)
    return files


def _refuse_dirty(folder: Folder, allow: bool) -> None:
    commits = folder.saved["commit"].split(", ")
    bad = [commit for commit in commits if commit == "unknown" or commit.endswith("+")]
    if bad and not allow:
        raise StudyError(
            f"{folder.path} was made at commit {', '.join(bad)}: by code that is in no "
            "commit. Commit it and run again, or say --allow-dirty."
        )


def refuse_paths(
    path: pathlib.Path, files: dict[str, bytes], places: list[str]
) -> None:
    """Refuses files that say where things are on this machine.

    Raises:
      StudyError: if there is one, with what it says.
    """
    absolute = [p for p in (*places, os.getcwd()) if os.path.isabs(p) and p != os.sep]
    for name, content in files.items():
        if name.endswith(".png"):
            continue
        text = content.decode("utf-8", "replace")
        found = [place for place in absolute if place in text]
        match = PATHS.search(text)
        if match and not found:
            found = [text[match.start() : match.start() + 40].splitlines()[0]]
        if found:
            raise StudyError(
                f"{path / name} names a directory of this machine: {found[0]!r}; a "
                "study must not write it there."
            )


def _refuse_another(
    target: pathlib.Path, files: dict[str, bytes], replace: bool
) -> None:
    """Refuses to put results in the place of those of another configuration."""
    if replace or not (target / "config.json").exists():
        return
    before = _folders.read(target).saved
    now = json.loads(files["config.json"])
    changed = sorted(
        name for name in {**before["config"], **now["config"]}
        if before["config"].get(name) != now["config"].get(name)
    )
    if changed or before["study"] != now["study"]:
        raise StudyError(
            f"{target} holds results of another configuration, of "
            f"`{before['command']}` (other {', '.join(changed) or 'study'}); "
            "say --replace if these shall take their place."
        )


def _tell_of_changes(folder: Folder, own: Any) -> None:
    """Says which criteria the study has changed since it ran."""
    default = own()
    now = json.loads(json.dumps({
        f.name: getattr(default, f.name)
        for f in fields(own) if not is_place(f)
    }))
    if any(folder.saved["config"].get(name) != now[name] for name in now):
        return  # Then criteria may have other numbers.
    criteria = {claim.key: claim.criterion for claim in claims_of(default)}
    for key, claim in folder.claims.items():
        if criteria.get(key) != claim.criterion:
            print(
                f"note: {folder.path.name}, claim {key!r}: the study's criterion is "
                f"now {criteria.get(key)!r}; published is that of the run, "
                f"{claim.criterion!r}.", file=sys.stderr,
            )


def _write(target: pathlib.Path, files: dict[str, bytes]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        if path.is_file() and path.name not in files:
            path.unlink()
    for name, content in files.items():
        (target / name).write_bytes(content)
