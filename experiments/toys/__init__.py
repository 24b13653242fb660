"""Studies of problems small enough to run whole, under `jax.lax.scan`, many at once."""
