"""What a user notices of the package before calling anything in it."""

import re
import subprocess
import sys
import warnings

import pytest

import ef_optax


def test_import_pulls_in_nothing_but_jax_and_optax():
    code = (
        "import sys, ef_optax; "
        "print(*(m for m in ('flax', 'scipy', 'matplotlib', 'chex', 'sklearn', 'tqdm') "
        "if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_version_is_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ef_optax.__version__)


def test_public_names_exist_and_are_sorted():
    assert all(hasattr(ef_optax, name) for name in ef_optax.__all__)
    assert sorted(ef_optax.__all__) == ef_optax.__all__


@pytest.mark.parametrize(
    "build",
    [
        lambda: ef_optax.error_feedback(ef_optax.sign()),
        lambda: ef_optax.ef_sgd(0.1, ef_optax.sign()),
    ],
    ids=["error_feedback", "ef_sgd"],
)
def test_a_warning_points_at_the_callers_line(build):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    (warning,) = caught
    assert warning.filename == __file__
    assert "may grow without bound" in str(warning.message)
