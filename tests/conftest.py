"""Eight virtual CPU devices, so that workers need no accelerator."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
