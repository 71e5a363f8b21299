"""``starmill show``: what is in a file, in words and as a picture."""

from __future__ import annotations

from typing import Any

import click

from starmill.cli.runtime import Settings, common_options, print_json

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path())
@click.option("--catalog", type=click.Path(), help="Catalogue whose ellipses are drawn.")
@click.option(
    "--mask", default="SAT,CR,BAD,NO_DATA", show_default=True, help="Planes in colour; empty for none."
)
@click.option("--hdu", default="", help="Extension of the image.")
@click.option(
    "-o", "--output", type=click.Path(), help="PNG; FILE with the suffix .quicklook.png by default."
)
@click.option("--no-picture", is_flag=True, help="Only the summary.")
@common_options
def command(
    settings: Settings,
    file: str,
    catalog: str | None,
    mask: str,
    hdu: str,
    output: str | None,
    no_picture: bool,
) -> None:
    """Summarise an exposure or image FILE and draw a quick-look picture of it."""
    from pathlib import Path

    from starmill.diagnostics.figures import save_figure, show_exposure, table_text
    from starmill.execution.frames import frame_name
    from starmill.io.exposure_file import read_exposure
    from starmill.io.tables import read_catalog

    exposure = read_exposure(file, int(hdu) if hdu.isdigit() else hdu or None)
    facts = _facts(exposure)
    if not no_picture:
        sources = read_catalog(catalog) if catalog else None
        planes = [name for name in mask.split(",") if name]
        target = output or str(Path(file).with_name(frame_name(file) + ".quicklook.png"))
        save_figure(show_exposure(exposure, mask=planes, catalog=sources, title=Path(file).name), target)
        facts["picture"] = target
    if settings.as_json:
        print_json(facts)
    elif not settings.quiet:
        click.echo(table_text(facts))


def _facts(exposure: Any) -> dict[str, Any]:
    import numpy as np

    from starmill.diagnostics.metrics import pixel_scale_arcsec

    usable = ~exposure.mask.any("NO_DATA")
    pixels = exposure.image[usable] if usable.any() else np.array([np.nan])
    facts: dict[str, Any] = {
        "size": f"{exposure.shape[1]} x {exposure.shape[0]}, origin {exposure.origin}",
        "unit": exposure.unit,
        "median, 1 %, 99 %": " ".join(f"{v:.6g}" for v in np.percentile(pixels, [50, 1, 99])),
        "PSF": repr(exposure.psf) if exposure.psf is not None else "none",
        "pixel scale": f"{pixel_scale_arcsec(exposure):.4g} arcsec",
    }
    if exposure.wcs is not None:
        ra, dec = exposure.sky_position(*exposure.box.center)
        facts["centre"] = f"RA {float(ra):.6f} Dec {float(dec):.6f} degree"
    facts |= {name: value for name, value in exposure.info.to_dict().items() if name != "extra"}
    for name, fraction in exposure.mask.fractions().items():
        if fraction > 0:
            facts[f"mask {name}"] = f"{100 * fraction:.3g} % ({exposure.mask.planes.description(name)})"
    return facts
