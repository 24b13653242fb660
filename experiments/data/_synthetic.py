"""Images that need no files."""

from __future__ import annotations

import numpy as np

from experiments.data._cifar import Images


def synthetic_images(train: int, test: int, seed: int = 0) -> Images:
    """Returns ten noisy patterns of 32 x 32 pixels, to try programs with."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (10, 4, 4, 3)).repeat(8, 1).repeat(8, 2)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 10, count)
        noise = rng.integers(0, 256, (count, 32, 32, 3))
        images = (patterns[labels] + noise) // 2
        return images.astype(np.uint8), labels.astype(np.int32)

    return Images(*part(train), *part(test), 10)
