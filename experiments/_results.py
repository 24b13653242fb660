"""What a study leaves behind, results/NAME/{config.json, metrics.jsonl, …}."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

from experiments._registry import StudyError

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")


class Results:
    """A directory with a study's configuration, metrics, figure and summary.

    Opening it writes config.json and removes the files of an earlier run.

    Args:
      root: the directory of all results.
      name: the directory of this study.
      config: the configuration, a dataclass, as it was really used.
    """

    def __init__(self, root: str | os.PathLike[str], name: str, config: Any):
        self.path = pathlib.Path(root) / name
        self.metrics_path = self.path / "metrics.jsonl"
        self.figure_path = self.path / "figure.png"
        self.summary_path = self.path / "summary.md"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"cannot make {self.path}: {error}") from error
        for path in (self.metrics_path, self.figure_path, self.summary_path):
            path.unlink(missing_ok=True)
        self.metrics_path.touch()
        content = {
            "study": name,
            "config": dataclasses.asdict(config),
            "environment": environment(),
        }
        text = json.dumps(content, indent=2)
        (self.path / "config.json").write_text(text + "\n")

    def metric(self, **values: Any) -> None:
        """Appends one line to metrics.jsonl; not-finite numbers become null."""
        line = json.dumps({name: _plain(value) for name, value in values.items()})
        with self.metrics_path.open("a") as file:
            file.write(line + "\n")

    def summary(self, text: str) -> None:
        """Writes summary.md."""
        self.summary_path.write_text(text.rstrip() + "\n")

    def files(self) -> str:
        """Returns which files were written, one a line."""
        return "\n".join(str(path) for path in sorted(self.path.iterdir()))


def environment() -> dict[str, Any]:
    """Returns versions and devices, of which numbers depend."""
    import jax

    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "device": devices[0].device_kind,
        "devices": len(devices),
    }


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


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Returns mean ± sample standard deviation; only the mean of one value."""
    import numpy as np

    mean = f"{np.mean(values):.{digits}f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def progress(total: int, unit: str = "epoch") -> Any:
    """Returns a progress bar, silent where standard error is not a terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total, unit=unit, disable=None, leave=False, dynamic_ncols=True
    )


def _plain(value: Any) -> Any:
    import numpy as np

    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value
