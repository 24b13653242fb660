"""The examples, run as a user runs them: copied out of the tree, from the shell.

What they print is checked: losses fall, replicas agree, a training that was stopped
ends as it would have, and the bytes are those counted by hand.
"""

import ast
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from processes import ROOT, alone

EXAMPLES = ROOT / "experiments" / "examples"
FILES = sorted(EXAMPLES.glob("[!_]*.py"))
MAY_IMPORT = {"ef_optax", "jax", "optax", "flax", "numpy", "sklearn", "orbax"}


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_can_be_copied_elsewhere(path):
    tree = ast.parse(path.read_text())
    packages = {name.partition(".")[0] for name in imports(tree)}
    assert packages <= MAY_IMPORT | sys.stdlib_module_names
    assert f"python {path.name}" in ast.get_docstring(tree)
    tests = [name for name in globals() if name.startswith(f"test_{path.stem}")]
    assert tests, f"no test runs {path.name}"


# Running them


def environment():
    """What a user's shell has, who asked for no devices."""
    ours = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def shell(*command, cwd, code=0):
    """Returns what a command prints."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == code, done.stdout
    return done.stdout


def run(name, directory, *options, code=0):
    """Runs a copy of an example."""
    shutil.copy(EXAMPLES / name, directory)
    return shell(name, *options, cwd=directory, code=code)


def losses(text):
    return [tuple(map(float, pair))
            for pair in re.findall(r"loss ([\d.]+) -> ([\d.]+)", text)]


def bytes_sent(text):
    sent = re.search(r"workers sends ([\d.,]+)(?: to ([\d.,]+) \(.*\))? bytes", text)
    return [float(n.replace(",", "")) for n in sent.groups() if n]


# Counting bytes by hand: a bit for every number of a leaf, a float32 for its scale, and
# a byte for the message that says whether it is finite.


def message(sizes):
    return sum(-(-size // 8) + 4 for size in sizes) + 1


def averaged(numbers, workers):
    """Bytes that a ring sends to average so many float32."""
    return 2 * (workers - 1) / workers * 4 * numbers


@pytest.mark.demos
def test_flax_nnx(tmp_path):
    text = run("flax_nnx.py", tmp_path, "--steps", 60)
    alone_, together = losses(text)
    assert alone_[1] < 0.2 * alone_[0] and together[1] < 0.2 * together[0]
    sizes = [64 * 128, 128, 128, 128, 128 * 10, 10]
    assert bytes_sent(text) == [3 * message(sizes) + averaged(1, 4)]


@pytest.mark.demos
def test_linen_pmap(tmp_path):
    text = run("linen_pmap.py", tmp_path, "--steps", 40, "--workers", 2)
    ((first, last),) = losses(text)
    assert last < 0.2 * first
    sizes = [9 * 16, 16, 16, 9 * 16 * 32, 32, 32, 128 * 10, 10]
    assert bytes_sent(text) == [message(sizes) + averaged(1, 2)]
    assert "parameters the same on all workers: True" in text
    assert "which holds the errors: False" in text
    apart = re.search(r"statistics were up to ([\d.]+) from their mean", text)
    assert float(apart[1]) > 0.001
    assert "the same on all workers now: True" in text


@pytest.mark.demos
@pytest.mark.parametrize(("order", "steps", "part"), [
    ("before", 60, 0.7), ("after", 20, 0.85)])
def test_transformer_lm(tmp_path, order, steps, part):
    text = run("transformer_lm.py", tmp_path, "--steps", steps, "--adam", order,
               "--workers", 2)
    ((first, last),) = losses(text)
    assert last < part * first
    characters = len(set(words_of("transformer_lm.py")))
    sizes = 2 * [64 * 64] * 4 + 2 * [64 * 256] * 2 + [64 * characters]
    exempt = (characters + 32) * 64 + 5 * 2 * 64
    # In every step loss and accuracy, in every second the rest, with a flag.
    assert bytes_sent(text) == [
        averaged(2, 2), averaged(2, 2) + message(sizes) + averaged(exempt + 1, 2)]
    assert "\nOnce, in a winter" in text


def words_of(name):
    """Returns the text that an example carries."""
    for node in ast.parse((EXAMPLES / name).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TEXT":
            return ast.literal_eval(node.value)
    raise AssertionError("no text")


# Several processes


def launch(count, directory, *options, code=0):
    """Runs a copy of multi_process.py in processes, by the project's launcher."""
    path = pathlib.Path(shutil.copy(EXAMPLES / "multi_process.py", directory))
    with alone():
        return shell("-m", "experiments", "launch", "-n", count, "--", path, *options,
                     "--checkpoints", directory / "checkpoints", cwd=ROOT, code=code)


def checksum(text):
    return re.search(r"checksum: (\w{16})", text)[1]


def served(workers):
    """Bytes that a worker sends in a step of two_way(), and for the loss."""
    rows = [-(-size // workers) for size in (64 * 128, 128, 128 * 10, 10)]
    return 2 * (workers - 1) * message(rows) + averaged(1, workers)


@pytest.mark.demos
def test_multi_process_goes_on_to_the_bit_and_with_other_workers(tmp_path):
    options = ("--every", 15)
    whole = run("multi_process.py", tmp_path, *options, "--steps", 45, "--virtual", 2)
    begun = launch(2, tmp_path, *options, "--steps", 30)
    assert "processes: 2" in begun and "goes on" not in begun
    ended = launch(2, tmp_path, *options, "--steps", 45)
    assert "goes on from step 30" in ended
    assert checksum(begun) != checksum(ended) == checksum(whole)
    assert bytes_sent(whole) == bytes_sent(ended) == [served(2)]
    found = re.findall(r"step \d+: loss ([\d.]+)", whole)
    assert float(found[-1]) < 0.5 * float(found[0])

    refused = run("multi_process.py", tmp_path, *options, "--virtual", 3,
                  "--checkpoints", "checkpoints", code=1)
    assert "is of 2 workers, and here are 3" in refused and "--resize" in refused
    resized = launch(3, tmp_path, *options, "--steps", 60, "--resize")
    assert "goes on from step 45" in resized and "processes: 3" in resized
    assert bytes_sent(resized) == [pytest.approx(served(3), abs=0.5)]  # as printed
    assert float(re.search(r"step 60: loss ([\d.]+)", resized)[1]) < float(found[0])


@pytest.mark.demos
def test_multi_process_says_what_is_missing(tmp_path):
    alone_ = run("multi_process.py", tmp_path, code=2)
    assert "no other processes found" in alone_ and "--virtual 2" in alone_
    uneven = run("multi_process.py", tmp_path, "--virtual", 5, code=2)
    assert "48 images do not divide evenly among 5 workers" in uneven
    wrong = run("linen_pmap.py", tmp_path, "--workers", 0, code=2)
    assert "--workers from 1 to 64" in wrong
