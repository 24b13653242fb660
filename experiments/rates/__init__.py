"""The theorems' rates, measured where every constant is known.

One study for each paper: `feedback` (Karimireddy et al.), `sign` (Bernstein et al.)
and `stochastic` (Safaryan and Richtárik). `problems` are functions whose smoothness,
minimum and greatest gradient are known, `simulate` runs the library's optimizers on
them, `bounds` are the theorems' right-hand sides, `curves` compares.
"""
