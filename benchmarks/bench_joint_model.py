"""Joint models of blends in several bands: chi squared, fluxes against the truth, CPU seconds; starmill or scarlet.

    python benchmarks/bench_joint_model.py --blends DIR                    # starmill
    python benchmarks/bench_joint_model.py --blends DIR --program scarlet  # in an environment with scarlet

DIR holds blends as ``.npz`` files (``images``, ``weights``, ``psfs``, ``peaks``). The simulated blends hold two to four
stars and galaxies (Moffat profiles) of random colours in five bands of different seeing. Both programs get the same peaks.
The script draws everything with numpy, so that each program can run in an environment of its own.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

BANDS, SIDE, BETA, NOISE = 5, 48, 3.5, 1.0


def moffat(x, y, fwhm, e1=0.0, e2=0.0, side=SIDE):
    """Moffat profile of unit flux."""
    yy, xx = np.mgrid[:side, :side]
    u, v = xx - x, yy - y
    a2 = (fwhm / 2) ** 2 / (2 ** (1 / BETA) - 1)
    r2 = ((1 - e1) * u**2 + (1 + e1) * v**2 - 2 * e2 * u * v) / np.sqrt(1 - e1**2 - e2**2) / a2
    return (BETA - 1) / (np.pi * a2) * (1 + r2) ** -BETA


def simulated(seed):
    """Draw one blend: images, weights, psfs, peaks (x, y), true fluxes (n, bands)."""
    rng = np.random.default_rng(seed)
    seeing = rng.uniform(3.2, 4.4, BANDS)
    n = int(rng.integers(2, 5))
    x, y = np.full(n, SIDE / 2.0), np.full(n, SIDE / 2.0)
    for k in range(1, n):
        while True:
            distance, angle = rng.uniform(5, 10), rng.uniform(0, 2 * np.pi)
            x[k], y[k] = SIDE / 2 + distance * np.cos(angle), SIDE / 2 + distance * np.sin(angle)
            if np.hypot(x[:k] - x[k], y[:k] - y[k]).min() > 5:
                break
    flux = np.exp(rng.uniform(np.log(300), np.log(5000), n))[:, None] * np.exp(
        rng.normal(0, 0.4, n)[:, None] * np.linspace(-1, 1, BANDS)
    )
    images = np.zeros((BANDS, SIDE, SIDE))
    for k in range(n):
        galaxy = rng.random() < 0.5
        extra, e1, e2 = (rng.uniform(1.5, 4), *rng.normal(0, 0.15, 2)) if galaxy else (0.0, 0.0, 0.0)
        for b in range(BANDS):
            images[b] += flux[k, b] * moffat(x[k], y[k], np.hypot(seeing[b], extra), e1, e2)
    images += rng.normal(0, NOISE, images.shape)
    psfs = np.stack([moffat(20, 20, width, side=41) for width in seeing])
    psfs /= psfs.sum((1, 2), keepdims=True)
    return images, np.full(images.shape, NOISE**-2.0), psfs, np.column_stack([x, y]), flux


def fit_starmill(images, weights, psfs, peaks):
    """Fit with starmill: rendered model of the scene and flux of every source in every band."""
    from starmill.deblending.joint_model import JointModelRules, fit_joint_model

    fit = fit_joint_model(images, weights, psfs, np.round(peaks).astype(int), JointModelRules())
    shared = fit.redistribute(images).sum((2, 3))
    return fit.models.sum(0), fit.spectra, shared


def fit_scarlet(images, weights, psfs, peaks):
    """Fit with scarlet, as in its tutorial: extended sources, up to two components."""
    import scarlet

    images, weights, psfs = (np.asarray(a, np.float32) for a in (images, weights, psfs))
    channels = list("grizy")
    frame = scarlet.Frame(
        images.shape, psf=scarlet.GaussianPSF(sigma=(0.8,) * len(images)), channels=channels
    )
    observation = scarlet.Observation(images, psf=scarlet.ImagePSF(psfs), weights=weights, channels=channels)
    observation = observation.match(frame)
    centres = [tuple(p) for p in peaks[:, ::-1]]
    sources, skipped = scarlet.initialization.init_all_sources(
        frame,
        centres,
        observation,
        max_components=2,
        min_snr=50,
        thresh=1,
        fallback=True,
        silent=True,
        set_spectra=True,
    )
    blend = scarlet.Blend(sources, observation)
    blend.fit(200, e_rel=1e-3)
    flux = np.full((len(peaks), len(images)), np.nan)
    rendered = np.zeros((len(peaks), *images.shape))
    fitted = [k for k in range(len(peaks)) if k not in skipped]
    for k, source in zip(fitted, sources, strict=True):
        flux[k] = scarlet.measure.flux(source)
        rendered[k] = observation.render(source.get_model(frame=frame))
    total = rendered.sum(0)
    share = np.divide(rendered, total, out=np.zeros_like(rendered), where=total > 0)
    return total, flux, (share * images).sum((2, 3))


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blends", type=Path, required=True)
    parser.add_argument("--program", choices=("starmill", "scarlet"), default="starmill")
    parser.add_argument("--simulated", type=int, default=30)
    options = parser.parse_args()
    fit = {"starmill": fit_starmill, "scarlet": fit_scarlet}[options.program]
    fit(*simulated(0)[:4])
    chis, total = [], 0.0
    for path in sorted(options.blends.glob("*.npz")):
        with np.load(path) as data:
            images, weights, psfs = (data[k].astype(float) for k in ("images", "weights", "psfs"))
            peaks = data["peaks"].astype(float)
        psfs /= psfs.sum((1, 2), keepdims=True)
        start = time.process_time()
        model, _, _ = fit(images, weights, psfs, peaks)
        seconds = time.process_time() - start
        total += seconds
        chi2 = (weights * (images - model) ** 2)[weights > 0].mean()
        chis.append(chi2)
        print(f"{path.stem:30s} {len(peaks):3d} sources  chi2 {chi2:7.3f}  {seconds:6.2f} CPU s", flush=True)
    print(f"{options.program}: median chi2 {np.median(chis):.3f}, {total:.1f} CPU s")
    errors, shared, colours, chis, start = [], [], [], [], time.process_time()
    for seed in range(1, options.simulated + 1):
        images, weights, psfs, peaks, truth = simulated(seed)
        model, flux, own = fit(images, weights, psfs, peaks)
        chis.append((weights * (images - model) ** 2).mean())
        errors.append((flux / truth - 1).ravel())
        shared.append((own / truth - 1).ravel())
        with np.errstate(all="ignore"):
            colours.append((np.log(own[:, 0] / own[:, -1]) - np.log(truth[:, 0] / truth[:, -1])) * 1.0857)
    seconds = (time.process_time() - start) / options.simulated
    errors, shared, colours = (np.concatenate(v) for v in (errors, shared, colours))
    model, bias, own, own_bias = (
        100 * np.nanmedian(v) for v in (np.abs(errors), errors, np.abs(shared), shared)
    )
    print(
        f"simulated: median chi2 {np.median(chis):.3f}; {seconds:.2f} CPU s a blend; lost {np.isnan(errors).mean():.3f}"
    )
    print(f"flux error in %: model median |{model:.1f}|, bias {bias:+.1f}; shared pixels |{own:.1f}|, bias {own_bias:+.1f}; "
          f"colour {np.nanmedian(np.abs(colours)):.3f} mag")  # fmt: skip


if __name__ == "__main__":
    main()
