"""Metrics and figures made small enough to be committed."""

from __future__ import annotations

import bisect
import io
import json
import pathlib
from typing import Any

import numpy as np

from experiments._registry import StudyError

DIGITS = 6


def thinned_metrics(
    content: bytes, path: pathlib.Path, numbers: int, limit: int
) -> bytes:
    """Returns metrics.jsonl with short lists and rounded numbers.

    Args:
      content: of the file.
      path: of the file, for errors.
      numbers: how many numbers a line may have; fewer if the file is too large.
      limit: how many bytes the file may have.

    Raises:
      StudyError: if a line is damaged, or the file too large without any lists.
    """
    records = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            records.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise StudyError(f"{path}, line {number}, is damaged: {error}.") from error
    while True:
        lines = [json.dumps(thinned(record, numbers)) + "\n" for record in records]
        small = "".join(lines).encode()
        if len(small) <= limit:
            return small
        if numbers == 0:
            raise StudyError(
                f"{path} has {len(small) / 1000:.0f} kB without any lists, more than "
                f"the {limit / 1000:.0f} kB that may be published (--metrics-kb)."
            )
        numbers //= 2


def thinned(record: dict[str, Any], numbers: int) -> dict[str, Any]:
    """Returns a line's values, of all together at most so many numbers in lists.

    The longest lists are cut first, to evenly spaced elements with the first and the
    last; if not even two would remain of each, all lists are left empty. How long the
    longest was is in "thinned", by name.
    """
    lengths = sorted(_lengths(record))
    keep = bisect.bisect_right(
        range(max(lengths, default=0) + 1), numbers,
        key=lambda keep: sum(min(length, keep) for length in lengths),
    ) - 1
    keep = keep if keep > 1 or max(lengths, default=0) < 2 else 0
    cut = {
        name: longest for name, value in record.items()
        if (longest := max(_lengths(value), default=0)) > keep
    }
    return _cut(record, keep) | ({"thinned": cut} if cut else {})


def smaller_figure(path: pathlib.Path, limit: int) -> bytes:
    """Returns a PNG, with 256 colours if it is larger than so many bytes.

    Raises:
      StudyError: if it is still larger.
    """
    content = path.read_bytes()
    if len(content) <= limit:
        return content
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(content)).convert("RGB").quantize(256)
    except OSError as error:
        raise StudyError(f"{path} is no image: {error}.") from error
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    if len(small.getvalue()) > limit:
        raise StudyError(
            f"{path} has {len(small.getvalue()) / 1000:.0f} kB with 256 colours, more "
            f"than {limit / 1000:.0f} (--figure-kb); draw less in it."
        )
    return small.getvalue()


def _cut(value: Any, keep: int) -> Any:
    """Returns a value, rounded, of whose innermost lists so many elements stay."""
    if isinstance(value, dict):
        return {name: _cut(part, keep) for name, part in value.items()}
    if isinstance(value, list):
        if not keep:
            return []
        if len(value) > keep and not any(isinstance(p, list | dict) for p in value):
            places = np.linspace(0, len(value) - 1, keep).round().astype(int)
            value = [value[place] for place in places]
        return [_cut(part, keep) for part in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value


def _lengths(value: Any) -> list[int]:
    """Returns the lengths of the innermost lists in a value."""
    if isinstance(value, dict):
        return [length for part in value.values() for length in _lengths(part)]
    if not isinstance(value, list):
        return []
    if any(isinstance(part, list | dict) for part in value):
        return [length for part in value for length in _lengths(part)]
    return [len(value)]
