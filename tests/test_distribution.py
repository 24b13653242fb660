"""Wheel and sdist are built, installed into empty environments, and work there.

The wheel meets the newest JAX and optax that the running Python can install, the sdist
the oldest that pyproject.toml admits.
"""

import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import pytest

import ef_optax

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OLDEST = [requirement.replace(">=", "==") for requirement in PROJECT["dependencies"]]

pytestmark = pytest.mark.package


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=900, **options,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    return out


@pytest.fixture
def python(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    return next((tmp_path / "env").glob("*/python"))


def install(python, *what):
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def test_the_wheel_works_with_the_newest(dist, python, tmp_path):
    install(python, *dist.glob("*.whl"))
    out = run(python, ROOT / "tests/smoke.py", cwd=tmp_path)
    assert out.startswith(f"ef_optax {ef_optax.__version__}, jax ")
    run(python, "-m", "pip", "check")


def test_the_sdist_works_with_the_oldest(dist, python, tmp_path):
    install(python, *dist.glob("*.tar.gz"), *OLDEST)
    out = run(python, ROOT / "tests/smoke.py", cwd=tmp_path)
    versions = dict(requirement.split("==") for requirement in OLDEST)
    assert f"jax {versions['jax']}, optax {versions['optax']}" in out


def test_the_wheel_has_the_library_and_nothing_else(dist):
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "ef_optax", f"ef_optax-{ef_optax.__version__}.dist-info"
    }
    assert "ef_optax/py.typed" in names
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "ef_optax").rglob("*.py")}
    assert sources <= set(names)


def test_the_sdist_can_run_its_own_tests(dist):
    (sdist,) = dist.glob("*.tar.gz")
    names = {name.split("/", 1)[1] for name in tarfile.open(sdist).getnames()}
    needed = {"Makefile", "pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md",
              "CITATION.cff", "tests/smoke.py", "experiments/__main__.py",
              "experiments/published/report.md", "notebooks/quickstart.ipynb"}
    assert needed <= names


def test_the_version_is_the_same_everywhere():
    version = ef_optax.__version__
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(version)}\b", changes, re.MULTILINE)
    assert f"Version {version}" in (ROOT / "README.md").read_text()
