"""Eight virtual CPU devices, so that workers need no accelerator; quick compilation."""

import gc
import os
import signal

# Most programs here are small and run once: to split one for several compiling threads
# costs more than that gains. Children inherit it.
os.environ["XLA_FLAGS"] = " ".join([
    os.environ.get("XLA_FLAGS", ""), "--xla_cpu_parallel_codegen_split_count=1"
]).strip()

import jax

jax.config.update("jax_num_cpu_devices", 8)
# Tracing makes many objects that stay; to look through them often takes a tenth of all.
gc.set_threshold(100_000, 50, 100)

collect_ignore = ["smoke.py"]  # a program, not a module with doctests

# Processes that a shell starts in the background ignore interrupts, and so would those
# that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
