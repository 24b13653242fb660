"""Eight virtual CPU devices, so that workers need no accelerator; one cache for all.

What one test process compiled is read by the other, by the processes that tests start,
and by the next run. A program's key is all that it computes, the versions of JAX and
XLA, and the flags of both: changed code never finds an old program.
"""

import ctypes
import importlib.metadata
import mmap
import os
import pathlib
import signal

# Before JAX is imported, and in the environment, which processes inherit.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Where programs are not optimized, `make test`, these emitters compile in two thirds of
# the time. XLA ends the process at a flag that it does not know, hence the version; the
# slow tests, `make demos` and `make package` run with its defaults.
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1" and (
    importlib.metadata.version("jaxlib").startswith("0.10.")
):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false")

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)

collect_ignore = ["mutants.py", "smoke.py"]  # programs, not modules with doctests

# Processes that a shell starts in the background ignore interrupts, and so would those
# that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def little_memory():
    """Drops the programs of earlier modules where they fill more than a gigabyte."""
    yield
    pages = pathlib.Path("/proc/self/statm")
    if pages.exists() and int(pages.read_text().split()[1]) * mmap.PAGESIZE > 1e9:
        jax.clear_caches()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
        if trim:
            trim(0)
