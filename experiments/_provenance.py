"""By which command, which code and which packages a result came about."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

from experiments._cli import fields, option_of

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")
# Of this repository. The list of studies changes no study.
OURS = ("ef_optax", "experiments")
WITHOUT_EFFECT = "experiments._registry"


def command(study: str, config: Any) -> str:
    """Returns the command that gives this configuration, but for places of files."""
    default = type(config)()
    options: list[str] = []
    positional: list[str] = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_place(field) or value == getattr(default, field.name):
            continue
        if field.metadata.get("positional"):
            positional += map(str, value)
        else:
            options.append(option_of(config, field))
    words = [study, *positional, *options]
    return " ".join(["python -m experiments", *map(shlex.quote, words)])


def is_place(field: dataclasses.Field[Any]) -> bool:
    """Returns whether a field says where files are, not what is computed."""
    return field.name == "results" or bool(field.metadata.get("place"))


def commit() -> str:
    """Returns the commit of the code, with a + if loaded files differ from it.

    Files that nothing has imported, such as tests or another study that somebody is
    just writing, had no part in the result.
    """
    root = pathlib.Path(__file__).resolve().parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *loaded_files(root))
        return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def loaded_files(root: pathlib.Path) -> list[str]:
    """Returns the files below root of this repository's modules that are imported."""
    files = {
        pathlib.Path(file).resolve()
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in OURS and name != WITHOUT_EFFECT
        and (file := getattr(module, "__file__", None))
    }
    return sorted(str(file) for file in files if root in file.parents)


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
