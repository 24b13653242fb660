"""The command line: options made from the fields of a frozen dataclass."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from experiments._registry import COMMANDS, STUDIES, StudyError, load

T = TypeVar("T")

USAGE = """\
usage: python -m experiments list
       python -m experiments NAME [--option value ...]
       python -m experiments NAME --help
"""

# In the order in which one would run them; others follow.
GROUPS = ("tools and first steps", "the papers: toy problems", "the papers: theory",
          "the papers: networks")


def main(argv: Sequence[str]) -> int:
    """Runs what the command line says; returns the exit code."""
    name, *options = argv or ["list"]
    try:
        return _run(name, options)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{name} was interrupted; files that it wrote stay.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Who reads the output, such as head, has left. Nor may Python flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(name: str, options: Sequence[str]) -> int:
    if name in ("-h", "--help", "list"):
        print(USAGE + "\n" + studies(), flush=True)
        return 0
    if name == "launch":
        from experiments import launch

        return launch.main(options)
    study, config = load(name)
    study.run(parse(config, options, f"python -m experiments {name}"))
    return 0


def studies() -> str:
    """Returns the names of all studies and commands with their descriptions."""
    every = STUDIES | COMMANDS
    width = max(map(len, every))
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, study in every.items():
        line = f"  {name:{width}}  {study.description}"
        groups.setdefault(study.group, []).append(line)
    return "\n\n".join(
        "\n".join([f"{group}:", *lines]) for group, lines in groups.items() if lines
    )


def parse(config: type[T], options: Sequence[str], prog: str) -> T:
    """Returns the configuration with what the options change.

    A field ``batch_size: int`` becomes ``--batch-size N``. Types: bool (``--flag`` and
    ``--no-flag``), int, float, str, ``Literal[...]``, ``tuple[T, ...]`` (``a,b``),
    ``dict[str, T]`` (``name=a,name=b``), and any of these ``| None`` (``none``).
    """
    parser = argparse.ArgumentParser(prog, description=config.__doc__)
    hints = typing.get_type_hints(config)
    for field in fields(config):
        kind, default = hints[field.name], field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        how: dict[str, Any] = {"dest": field.name, "default": default}
        text = field.metadata.get("help", "")
        if field.metadata.get("positional"):
            parser.add_argument(
                field.name, nargs="*", default=default, metavar=field.name.upper(),
                help=text.replace("%", "%%"),
            )
            continue
        if show(default):
            text = f"{text} [{show(default)}]".strip()
        # argparse formats help strings with %.
        how["help"] = text.replace("%", "%%")
        if kind is bool:
            how["action"] = argparse.BooleanOptionalAction
        else:
            how["type"] = reader(kind)
            how["metavar"] = metavar(kind)
        parser.add_argument("--" + field.name.replace("_", "-"), **how)
    values = vars(parser.parse_args(options))
    for field in fields(config):
        if field.metadata.get("positional"):
            values[field.name] = tuple(values[field.name])
    try:
        return config(**values)
    except ValueError as error:
        # Without the usage, which hides the message behind all the options.
        parser.exit(2, f"error: {error} See {prog} --help.\n")


def fields(config: Any) -> list[dataclasses.Field[Any]]:
    """Returns the fields of a configuration or of its class.

    A field that a subclass gives another default, and nothing else, keeps the help and
    all other metadata that it has in the base class.
    """
    owner = config if isinstance(config, type) else type(config)
    found = []
    for field in dataclasses.fields(owner):
        inherited = [
            getattr(base, "__dataclass_fields__", {}).get(field.name, field).metadata
            for base in owner.__mro__
        ]
        field = copy.copy(field)
        field.metadata = next(filter(None, inherited), field.metadata)
        found.append(field)
    return found


def options_of(config: Any) -> list[str]:
    """Returns the options that give a configuration, but for positional ones."""
    return [
        option_of(config, field)
        for field in fields(config)
        if not field.metadata.get("positional")
    ]


def option_of(config: Any, field: dataclasses.Field[Any]) -> str:
    """Returns the option that gives one field of a configuration."""
    name, value = field.name.replace("_", "-"), getattr(config, field.name)
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={show(value)}"


def reader(kind: Any) -> Callable[[str], Any]:
    """Returns the function that reads a value of a field's type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)

    def read(text: str) -> Any:
        text = text.strip()
        if origin in (types.UnionType, typing.Union):
            inner = [a for a in args if a is not type(None)]
            if len(inner) < len(args) and text.lower() == "none":
                return None
            return reader(inner[0])(text)
        if origin is typing.Literal:
            for value in args:
                if str(value) == text:
                    return value
            options = ", ".join(map(str, args))
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {options}")
        if origin is tuple:
            return tuple(reader(args[0])(part) for part in text.split(",") if part)
        if origin is dict:
            pairs = [part.partition("=") for part in text.split(",") if part]
            if any(not equals for _, equals, _ in pairs):
                raise argparse.ArgumentTypeError(f"{text!r} is not name=value,...")
            return {name.strip(): reader(args[1])(value) for name, _, value in pairs}
        return kind(text)

    # argparse names the type when it refuses a value.
    read.__name__ = metavar(kind)
    return read


def metavar(kind: Any) -> str:
    """Returns how the help shows the values of a type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return "|".join("none" if a is type(None) else metavar(a) for a in args)
    if origin is typing.Literal:
        return "|".join(map(str, args))
    if origin is tuple:
        return f"{metavar(args[0])},..."
    if origin is dict:
        return f"name={metavar(args[1])},..."
    return kind.__name__


def show(value: Any) -> str:
    """Returns a value as it would be typed."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    if isinstance(value, dict):
        return ",".join(f"{name}={show(part)}" for name, part in value.items())
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)
