"""Studies with ef_optax: ``python -m experiments list``.

A study is one module, named with one line in `_registry.STUDIES`, that has

- ``Config``, a frozen dataclass. Every field has a default and becomes an option of
  the command line (see `_cli`); ``field(metadata={"help": ...})`` describes it, and
  ``"place": True`` says that it tells where files are, not what is computed. Bad
  values raise ValueError in ``__post_init__``. ``CLAIMS``, a class attribute, says what
  the papers claim and when that counts as reproduced (see `_claims`).
- ``run(config)``, which prints what it finds, writes its files by
  `_results.Results`, and returns whatever a test may want to look at. What the user
  can set right (a missing file, too few devices) raises `_registry.StudyError`.

``publish`` copies results to experiments/published, small and without paths; ``report``
sets all of them beside the papers' claims, in the papers' order (see `_papers`).

Modules of studies are imported when they run, so they may import anything; they must
not start JAX's backend on import.
"""
