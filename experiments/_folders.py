"""Results of earlier runs, read back from their folders."""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

from experiments._claims import PAPERS, VERDICTS, Claim, Judged
from experiments._registry import StudyError


class Folder(NamedTuple):
    """What a run left behind.

    Attributes:
      path: of the folder.
      study: the name that the command line knows.
      saved: config.json.
      claims: those of config.json, by key, with their criteria.
      judged: their verdicts by key; None if there are none yet.
    """

    path: pathlib.Path
    study: str
    saved: dict[str, Any]
    claims: dict[str, Claim]
    judged: dict[str, Judged] | None


def folders(root: pathlib.Path) -> list[Folder]:
    """Returns all results below a directory, by name.

    Raises:
      StudyError: if there is no such directory, or something in it is damaged.
    """
    if not root.is_dir():
        raise StudyError(
            f"there is no directory {root}: run a study first, or name the directory "
            "of its results by --results."
        )
    return [read(path.parent) for path in sorted(root.glob("*/config.json"))]


def read(path: pathlib.Path) -> Folder:
    """Returns the results in a folder.

    Raises:
      StudyError: if a file of theirs is missing or damaged, with its name.
    """
    file = path / "config.json"
    saved = _object(file)
    for name, kind in {"study": str, "command": str, "commit": str,
                       "config": dict, "claims": list, "environment": dict}.items():
        if not isinstance(saved.get(name), kind):
            raise _damaged(file, f"it has no {name!r}, or another kind of it")
    claims = {claim.key: claim for claim in (_claim(c, file) for c in saved["claims"])}
    file = path / "verdicts.json"
    judged = None
    if claims and file.exists():
        verdicts = _object(file)
        if verdicts.keys() != claims.keys():
            raise _damaged(file, "its claims are not those of config.json")
        judged = {}
        for key, content in verdicts.items():
            if _claim(content, file) != claims[key]:
                raise _damaged(file, f"claim {key!r} is not that of config.json")
            judged[key] = _judged(content, file)
    return Folder(path, saved["study"], saved, claims, judged)


def _claim(content: Any, file: pathlib.Path) -> Claim:
    try:
        claim = Claim(**{
            name: content[name] for name in Claim._fields
            if name in content or name not in Claim._field_defaults
        })
    except (KeyError, TypeError) as error:
        raise _damaged(file, f"a claim lacks {error}") from error
    if claim.paper not in PAPERS or not all(isinstance(text, str) for text in claim):
        raise _damaged(file, f"claim {claim.key!r} is of no known paper, or no text")
    return claim


def _judged(content: Any, file: pathlib.Path) -> Judged:
    words = [content.get(name) for name in Judged._fields]
    if words[0] not in VERDICTS or not all(isinstance(word, str) for word in words):
        raise _damaged(file, f"{words[0]!r} is none of {', '.join(VERDICTS)}")
    return Judged(*words)


def _object(file: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(content, dict):
        raise _damaged(file, "it is no JSON object")
    return content


def _damaged(file: pathlib.Path, why: str) -> StudyError:
    return StudyError(f"{file} is missing or damaged: {why}; run the study again.")
