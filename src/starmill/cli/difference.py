"""``starmill difference``: subtract a PSF-matched template from a science image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from starmill.cli.runtime import Settings, common_options, print_json, resolve_config

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("template", type=click.Path())
@click.argument("science", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="Difference image, FITS.")
@click.option("--align", type=click.Choice(["auto", "wcs", "stars", "none"]), default="auto", show_default=True,
              help="Resample the template to the science pixels: by WCS (auto: when both have one and they "
              "differ) or by common stars.")  # fmt: skip
@click.option("--hdu", default="", help="Extension of both images.")
@click.option("--gain", type=float, help="Electrons per unit, for images without a variance plane.")
@click.option("--read-noise", type=float, default=0.0, show_default=True, help="Electrons, with --gain.")
@click.option("--saturation", type=float, help="Pixels at or above this value are saturated.")
@click.option("--threshold", type=float, default=5.0, show_default=True, help="Score of a source.")
@click.option("--no-report", is_flag=True, help="No PNG and HTML.")
@click.option("--strict", is_flag=True, help="Exit with 5 when the quality verdict is a failure.")
@common_options
def command(settings: Settings, template: str, science: str, output: str, **options: Any) -> int:
    """Subtract TEMPLATE from SCIENCE after matching their PSFs.

    Writes OUT.fits (difference), OUT.score.fits (signal-to-noise), OUT.kernel.fits, OUT.catalog.fits, OUT.reg,
    OUT.png and OUT.html.
    """
    from starmill.tasks.difference import DifferenceConfig, DifferenceTask
    from starmill.tasks.measure_difference import MeasureDifferenceConfig, MeasureDifferenceTask

    config = resolve_config(DifferenceConfig, settings, step="difference")
    if settings.config_dump:
        print_json(config.to_dict())
        return 0
    hdu = int(options["hdu"]) if options["hdu"].isdigit() else options["hdu"] or None
    pair = [_read(path, hdu, options) for path in (template, science)]
    pair[0] = _aligned(pair[0], pair[1], options["align"])
    result = DifferenceTask(config).run(template=pair[0], science=pair[1])
    finder = MeasureDifferenceTask(MeasureDifferenceConfig(threshold=options["threshold"]))
    catalog = finder.run(difference=result.difference, score=result.score).catalog
    facts = _facts(result, catalog)
    _write(Path(output), pair, result, catalog, facts, report=not options["no_report"])
    if settings.as_json:
        print_json(facts)
    elif not settings.quiet:
        width = max(map(len, facts))
        click.echo("\n".join(f"{name:{width}}  {value}" for name, value in facts.items()))
    return 5 if options["strict"] and not result.quality.good else 0


def _read(path: str, hdu: int | str | None, options: dict[str, Any]) -> Any:
    """Read an image and give it a variance and a saturation mask when it has none."""
    import numpy as np

    from starmill.differencing.noise import image_variance
    from starmill.io.exposure_file import read_exposure

    exposure = read_exposure(path, hdu)
    bad = exposure.mask.any("NO_DATA", "BAD")
    level = options["saturation"] or exposure.info.saturation
    if np.isfinite(level):
        exposure.mask.set("SAT", exposure.image >= level)
    if not (exposure.variance[~bad] > 0).any():
        gain = options["gain"] or exposure.info.gain
        read_noise = options["read_noise"] or np.nan_to_num(exposure.info.read_noise)
        bad |= exposure.mask.any("SAT")
        exposure.variance = image_variance(exposure.image, bad, gain=gain, read_noise=read_noise)
    return exposure


def _aligned(template: Any, science: Any, mode: str) -> Any:
    """Return the template on the pixels of the science image."""
    from starmill.coaddition.warp import same_grid, warp_exposure
    from starmill.errors import InputError

    if mode == "stars":
        return _registered(template, science)
    if mode == "none" or (template.wcs is None or science.wcs is None):
        if mode == "wcs":
            raise InputError("both images need a WCS to be aligned")
        return template
    if template.box == science.box and same_grid(template.wcs, science.wcs, science.box):
        return template
    return warp_exposure(template, science.wcs, science.box)


def _registered(template: Any, science: Any) -> Any:
    """Return the template resampled to the science pixels by the stars that both show."""
    from starmill.coaddition.registration import find_registration
    from starmill.coaddition.warp import warp_by_map
    from starmill.differencing.seeing import bright_positions

    planes = ("SAT", "BAD", "NO_DATA")
    stars = [bright_positions(e.image, e.variance, e.mask.any(*planes)) for e in (science, template)]
    return warp_by_map(template, find_registration(*stars, science.shape), science.box, wcs=science.wcs)


def _facts(result: Any, catalog: Any) -> dict[str, Any]:
    fit, quality = result.fit, result.quality
    return {
        "verdict": quality.verdict, "convolved": result.direction, "kernel_sum": round(result.kernel_sum, 6),
        "kernel_sum_error": round(result.kernel_sum_error, 6), "stamps_used": int(fit.used.sum()), "stamps": len(fit.status),
        "decorrelated": result.decorrelated, "star_residual": round(quality.star_residual, 4),
        "sky_width": round(quality.sky_width, 4), "score_width": round(quality.score_width, 4),
        "flatness": round(quality.flatness, 4), "usable_fraction": round(quality.usable_fraction, 4),
        "sources": len(catalog), "negative_sources": int(catalog["is_negative"].sum()),
        "dipoles": int(catalog["dipole_flag"].sum()) // 2,
    }  # fmt: skip


def _write(
    output: Path, pair: list[Any], result: Any, catalog: Any, facts: dict[str, Any], *, report: bool
) -> None:
    import numpy as np

    from starmill.io.exposure_file import write_exposure
    from starmill.io.fits import write_image
    from starmill.io.regions import point_region, write_regions
    from starmill.io.tables import write_catalog

    stem = str(output).removesuffix(".fits")
    x0, y0 = result.difference.origin
    write_exposure(result.difference, output, provenance=facts)
    write_exposure(result.score, f"{stem}.score.fits", provenance=facts)
    box = result.difference.box
    x, y = np.linspace(box.x0, box.x1 - 1, 5), np.linspace(box.y0, box.y1 - 1, 5)
    kernels = result.kernel.kernels_at(x[None, :], y[:, None])
    write_image(f"{stem}.kernel.fits", np.concatenate([np.concatenate(list(row), axis=1) for row in kernels]))
    write_catalog(catalog, f"{stem}.catalog.fits", footprints=False)
    colors = np.where(catalog["is_negative"], "cyan", "yellow")
    lines = [
        point_region(a - x0, b - y0, symbol="circle", color=c)
        for a, b, c in zip(catalog["x"], catalog["y"], colors, strict=True)
    ]
    write_regions(f"{stem}.reg", lines)
    if report:
        _draw(stem, pair, result, catalog, facts)


def _draw(stem: str, pair: list[Any], result: Any, catalog: Any, facts: dict[str, Any]) -> None:
    import numpy as np

    from starmill.diagnostics import difference_figures as draw
    from starmill.diagnostics.figures import save_figure

    difference = result.difference
    bad = difference.mask.any("NO_DATA")
    images = [np.where(bad, np.nan, image) for image in (pair[0].image, pair[1].image, difference.image)]
    overview = draw.show_difference(*images, catalog=catalog)
    save_figure(overview, f"{stem}.png")
    good = ~bad & (difference.variance > 0)
    pulls = difference.image[good] / np.sqrt(difference.variance[good])
    figures = {
        "Template, science, difference": overview,
        "Kernel": draw.kernel_figure(result.kernel),
        "Stamps": draw.stamps_figure(
            pair[0].image, pair[1].image, result.matched_template, result.stamps, result.fit.status
        ),
        "Difference over error": draw.residual_histogram(pulls[:: max(1, len(pulls) // 1_000_000)]),
    }
    draw.write_difference_report(f"{stem}.html", "Difference image", facts, figures)
