"""The devices that workers run on."""

from __future__ import annotations

import os
from typing import Any

import jax

from experiments._registry import StudyError


def worker_devices(count: int) -> list[jax.Device]:
    """Returns one device for each worker, on a CPU virtual ones.

    Call it before anything starts JAX's backend: then a CPU is split into `count`
    devices. Accelerators are used as they are.

    Raises:
      StudyError: if there are too few devices.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not by_flag and _asked() < count:
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            pass  # The backend runs; what it has is checked below.
    devices = jax.local_devices()
    if len(devices) < count:
        kind = devices[0].platform
        remedy = (
            "XLA_FLAGS, or what started JAX before, set their number"
            if kind == "cpu"
            else "the CPU can be split into virtual ones: JAX_PLATFORMS=cpu"
        )
        raise StudyError(
            f"{count} workers need {count} devices, and here are {len(devices)} of "
            f"platform {kind!r}; {remedy}. Or ask for fewer workers."
        )
    return devices[:count]


def _asked() -> int:
    """Returns how many CPU devices were asked for so far, -1 if nobody did."""
    config: Any = jax.config
    return config.jax_num_cpu_devices
