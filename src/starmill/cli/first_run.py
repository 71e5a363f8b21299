"""Compile the kernels of the characterisation on a second core while a first run does other work.

Compiled kernels are kept on disk; only the first run on a machine waits for them.  ``python -m starmill.cli.first_run``
characterises a small image of stars, which compiles what a frame will need.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

__all__ = ["compile_beside", "kernels_are_compiled"]

_LATE_KERNEL = "circular_apertures"  # one of the last that a characterisation calls


def kernels_are_compiled() -> bool:
    """Tell whether the compiled kernels of a characterisation are on disk."""
    spec = find_spec("starmill.kernels")
    own = [Path(place) / "__pycache__" for place in (spec.submodule_search_locations or [])] if spec else []
    other = os.environ.get("NUMBA_CACHE_DIR")
    places = [Path(other)] if other else own
    return any(True for place in places for _ in place.rglob(f"{_LATE_KERNEL}*.nbi"))


@contextmanager
def compile_beside() -> Iterator[None]:
    """Compile in a process of its own while the block runs; nothing is done with one core or compiled kernels.

    The process only fills the cache on disk: whether it ends, fails or is stopped changes no result.
    """
    if kernels_are_compiled() or (os.cpu_count() or 1) < 2:
        yield
        return
    silent = subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "-m", "starmill.cli.first_run"], stdin=silent, stdout=silent, stderr=silent
    ) as process:
        try:
            yield
        finally:
            process.terminate()


def main() -> None:
    """Characterise a small image of stars."""
    import numpy as np

    from starmill.datamodel.exposure import Exposure
    from starmill.datamodel.psf import GaussianPsf
    from starmill.tasks.characterize import CharacterizeImageTask

    rng = np.random.default_rng(1)
    side, n = 512, 120
    sky = 400.0
    image = np.full((side, side), sky)
    x, y = rng.uniform(15, side - 15, (2, n))
    flux = 10 ** rng.uniform(3.3, 5.3, n)
    stamps, x0, y0 = GaussianPsf(1.5, 25).images_at(x, y)
    for stamp, f, i, j in zip(stamps, flux, x0, y0, strict=True):
        part = image[max(j, 0) : j + 25, max(i, 0) : i + 25]
        part += f * stamp[max(-j, 0) :, max(-i, 0) :][: part.shape[0], : part.shape[1]]
    image = rng.poisson(image) + rng.normal(0, 5, image.shape)
    image[rng.integers(0, side, 20), rng.integers(0, side, 20)] += 3000  # cosmic rays
    exposure = Exposure(image.astype(np.float32), variance=(np.maximum(image, sky) + 25).astype(np.float32))
    CharacterizeImageTask().run(exposure=exposure)


if __name__ == "__main__":
    main()
