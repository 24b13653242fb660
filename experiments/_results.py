"""What a study leaves behind: config.json, metrics.jsonl, figures, summary.md."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments._claims import PAPERS, Judged, claims_of, judge
from experiments._cli import fields
from experiments._provenance import command, commit, environment, is_place
from experiments._registry import StudyError


class Results:
    """A directory with a study's configuration, metrics, figures and summary.

    Opening it writes config.json, with the criteria of all claims, before anything
    runs. A directory that holds results of another configuration is left as it is.

    Args:
      root: the directory of all results.
      name: the directory of this study.
      config: the configuration, a dataclass, as it was really used.
      resume: whether to keep the lines of metrics.jsonl that an earlier run of the
        same configuration left; they are in `records`.
      replace: whether results of any configuration give way, as old timings do.
      study: the name that the command line knows, if it is not `name`.

    Raises:
      StudyError: if the directory cannot be made, or is of another configuration.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        name: str,
        config: Any,
        resume: bool = False,
        replace: bool = False,
        study: str | None = None,
    ):
        self.path = pathlib.Path(root) / name
        self.metrics_path = self.path / "metrics.jsonl"
        self.figure_path = self.path / "figure.png"
        self.summary_path = self.path / "summary.md"
        self.config_path = self.path / "config.json"
        self.claims = {claim.key: claim for claim in claims_of(config)}
        self.judged: dict[str, Judged] = {}
        content = {
            "study": study or name,
            "command": command(study or name, config),
            "commit": commit(),
            "config": _plain(dataclasses.asdict(config)),
            "claims": [claim._asdict() for claim in self.claims.values()],
            "environment": environment(),
        }
        with self._writing():
            same = not replace and self._refuse_another(content, config)
            self.path.mkdir(parents=True, exist_ok=True)
            self.records = self._read_metrics() if resume and same else []
            if self.records:  # Of which commits, all of them.
                content["commit"] = ", ".join(dict.fromkeys(self._commits))
            # First what fails if nothing may be written there.
            _write(self.config_path, json.dumps(content, indent=2) + "\n")
            for path in self._outputs():
                path.unlink(missing_ok=True)
            if not self.records:
                _write(self.metrics_path, "")

    def metric(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl; not-finite numbers become null."""
        line = json.dumps({name: _plain(value) for name, value in values.items()})
        with self._writing(), self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def figure(self, figure: Any, name: str = "") -> None:
        """Writes figure.png, or figure_NAME.png."""
        path = self.path / f"figure_{name}.png" if name else self.figure_path
        with self._writing():
            figure.savefig(path, dpi=150)

    def verdict(self, key: str, holds: Any, number: str, why: str = "") -> None:
        """Records whether a claim's criterion holds, what was measured, and why.

        Raises:
          ValueError: if there is no such claim, or one does not hold and `why` is
            empty.
        """
        if key not in self.claims:
            known = ", ".join(self.claims) or "none"
            raise ValueError(f"there is no claim {key!r}; there are: {known}.")
        self.judged[key] = judge(self.claims[key], bool(holds), number, why)

    def finish(self, text: str) -> None:
        """Writes summary.md and verdicts.json, and prints the summary.

        Raises:
          ValueError: if a claim of the configuration has no verdict.
        """
        for claim in self.claims.values():
            if claim.not_run and claim.key not in self.judged:
                self.verdict(claim.key, False, "")
        open_ = [key for key in self.claims if key not in self.judged]
        if open_:
            raise ValueError(f"no verdict on {', '.join(open_)}.")
        if self.claims:
            verdicts = {
                key: claim._asdict() | self.judged[key]._asdict()
                for key, claim in self.claims.items()
            }
            content = json.dumps(verdicts, indent=2, ensure_ascii=False)
            with self._writing():
                _write(self.path / "verdicts.json", content + "\n")
            text += "\n\n" + self._verdicts()
        self.summary(text)
        print(self.summary_path.read_text(encoding="utf-8"), self.files(), sep="\n")

    def summary(self, text: str) -> None:
        """Writes summary.md."""
        with self._writing():
            _write(self.summary_path, text.rstrip() + "\n")

    def files(self) -> str:
        """Returns which files were written, one a line."""
        return "\n".join(str(path) for path in sorted(self.path.iterdir()))

    def _verdicts(self) -> str:
        """Returns the verdicts as a list in Markdown."""
        lines = []
        for key, claim in self.claims.items():
            judged = self.judged[key]
            measured = f" Here: {judged.number}." if judged.number else ""
            why = f" ({judged.why})" if judged.why else ""
            lines.append(
                f"- **{judged.verdict}** · {PAPERS[claim.paper]}, {claim.where}: "
                f"{claim.says} Criterion: {claim.criterion}.{measured}{why}"
            )
        return "\n".join(lines)

    def _outputs(self) -> list[pathlib.Path]:
        """Returns what an earlier run may have left, but for its metrics."""
        return [*self.path.glob("figure*.png"), self.summary_path,
                self.path / "verdicts.json"]

    def _refuse_another(self, content: dict[str, Any], config: Any) -> bool:
        """Returns whether there are results of the same configuration."""
        if not self.config_path.exists():
            owned = [path for path in (*self._outputs(), self.metrics_path)
                     if path.exists()]
            if owned:
                raise StudyError(
                    f"{self.path} holds {owned[0].name} but no config.json, so that "
                    "nobody knows whose results these are; move it away, or choose "
                    "another --results."
                )
            return False
        try:
            saved = json.loads(self.config_path.read_text(encoding="utf-8"))
            before = dict(saved["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(
                f"{self.config_path} cannot be read ({error}), so that nobody knows "
                f"whose results these are; move {self.path} away, or choose another "
                "--results."
            ) from error
        places = {f.name for f in fields(config) if is_place(f)}
        now = json.loads(json.dumps(content["config"]))
        changed = [
            f"{name} is {now.get(name)!r} and was {before.get(name)!r}"
            for name in {**before, **now}
            if name not in places and before.get(name) != now.get(name)
        ]
        if changed:
            raise StudyError(
                f"{self.path} holds results of another configuration: "
                f"{'; '.join(changed)}. Nothing was changed there; move it away, or "
                "choose another --results."
            )
        commits = str(saved.get("commit", "unknown")).split(", ")
        self._commits = [*commits, content["commit"]]
        return True

    def _read_metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl, without one that was cut off."""
        if not self.metrics_path.exists():
            return []
        text = self.metrics_path.read_text(encoding="utf-8")
        whole, _, _ = text.rpartition("\n")
        records = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise StudyError(
                    f"{self.metrics_path}, line {number}, is damaged ({error}); move "
                    f"{self.path} away to start anew."
                ) from error
        _write(self.metrics_path, whole + "\n" * bool(whole))
        return records

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says which folder it was that could not be written."""
        try:
            yield
        except OSError as error:
            raise StudyError(f"cannot write to {self.path}: {error}") from error


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table that also reads well as plain text.

    The first column is set left, the others right.
    """
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def text(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(aligned) + " |"

    return "\n".join(map(text, [lines[0], rule, *lines[1:]]))


def spread(values: Any, digits: int = 2) -> str:
    """Returns mean ± sample standard deviation; only the mean of one value."""
    import numpy as np

    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def count_text(count: int, noun: str) -> str:
    """Returns "1 seed" or "2 seeds"."""
    return f"{count} {noun}{'s'[: count > 1]}"


def progress(total: int, unit: str = "epoch") -> Any:
    """Returns a progress bar, silent where standard error is not a terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total, unit=unit, disable=None, leave=False, dynamic_ncols=True
    )


def _write(path: pathlib.Path, text: str) -> None:
    """Writes a text whole or not at all, so that an interrupted run leaves no half."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _plain(value: Any) -> Any:
    import numpy as np

    if hasattr(value, "tolist"):  # Arrays and scalars of NumPy and of JAX.
        value = value.tolist()
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
