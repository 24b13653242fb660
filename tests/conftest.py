"""Eight virtual CPU devices, so that workers need no accelerator."""

import signal

import jax

jax.config.update("jax_num_cpu_devices", 8)

collect_ignore = ["smoke.py"]  # a program, not a module with doctests

# Processes that a shell starts in the background ignore interrupts, and so would those
# that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
