"""Templates of blended sources: mirrored pixels, edge ramps, median smoothing, monotonic decline.

With the peak at c, the symmetric template is ``T(p) = max(0, min(I(p), I(2 c - p)))``: light that is on one
side of the peak only belongs to somebody else. A template lives in the largest box that is centred on its
peak and fits into the stamp of its parent.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import njit
from starmill.kernels.medians import window_median

MAX_RING_STEP = 5  # pixels that the shadow of a pixel reaches outwards
SHADOW_SLOPE = 0.3  # half opening of the shadow, tangent


@njit
def copy_image(image, out):
    """Copy pixel by pixel (an array assignment takes seconds to compile)."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            out[y, x] = image[y, x]


@njit
def symmetric_template(pixels, inside, cy, cx, template):
    """Fill a template of odd shape from the pixels of a stamp mirrored about ``(cy, cx)``.

    Parameters
    ----------
    pixels : (ny, nx) float32 array
    inside : (ny, nx) bool array
        Pixels that may be used; a pixel counts when its mirror image is inside as well.
    cy, cx : int
        The peak.
    template : (2 ry + 1, 2 rx + 1) float32 array
        Written; must fit into the stamp around the peak.
    """
    height, width = template.shape
    y0, x0 = cy - height // 2, cx - width // 2
    for iy in range(height):
        near, far = pixels[y0 + iy, x0 : x0 + width], pixels[y0 + height - 1 - iy, x0 : x0 + width]
        ok_near, ok_far = inside[y0 + iy, x0 : x0 + width], inside[y0 + height - 1 - iy, x0 : x0 + width]
        row = template[iy]
        for ix in range(width):
            jx = width - 1 - ix
            value = min(near[ix], far[jx])
            row[ix] = value if (ok_near[ix] and ok_far[jx] and value > 0) else np.float32(0.0)


@njit
def add_edge_ramps(pixels, inside, template, cy, cx, psf, threshold, padded, allowed):
    """Continue a stamp outside the footprint where a template is cut off while still bright.

    Every bright pixel at the rim of a template lends its height to a PSF-shaped ramp outside the footprint.

    Parameters
    ----------
    pixels, inside
        As for :func:`symmetric_template`.
    template : (2 ry + 1, 2 rx + 1) float32 array
        Symmetric template of the pixels.
    cy, cx : int
        Peak.
    psf : (size, size) float64 array
        Point-spread function, odd size; only its shape counts.
    threshold : float
        A rim pixel above it makes a ramp.
    padded : (ny, nx) float32 array, allowed : (ny, nx) bool array
        Written in the box of the template: pixels and footprint with the ramps.

    Returns
    -------
    ramped : bool
        Whether there was any ramp.
    """
    height, width = template.shape
    y0, x0 = cy - height // 2, cx - width // 2
    y1, x1 = y0 + height, x0 + width
    copy_image(pixels[y0:y1, x0:x1], padded[y0:y1, x0:x1])
    copy_image(inside[y0:y1, x0:x1], allowed[y0:y1, x0:x1])
    half = psf.shape[0] // 2
    top = psf[half, half]
    ramped = False
    for iy in range(height):
        for ix in range(width):
            value = template[iy, ix]
            if value <= threshold:
                continue
            y, x = y0 + iy, x0 + ix
            mirror_y, mirror_x = 2 * cy - y, 2 * cx - x
            if _surrounded(inside, y, x) and _surrounded(inside, mirror_y, mirror_x):
                continue
            for qy in range(max(y0, y - half), min(y1, y + half + 1)):
                for qx in range(max(x0, x - half), min(x1, x + half + 1)):
                    if inside[qy, qx]:
                        continue
                    ramp = np.float32(value * psf[qy - y + half, qx - x + half] / top)
                    if ramp > 0:
                        ramped = True
                        if not allowed[qy, qx] or ramp > padded[qy, qx]:
                            padded[qy, qx] = ramp
                        allowed[qy, qx] = True
    return ramped


@njit
def _surrounded(inside, y, x):
    """Tell whether the four neighbours of a pixel are inside."""
    ny, nx = inside.shape
    if y <= 0 or x <= 0 or y >= ny - 1 or x >= nx - 1:
        return False
    return inside[y - 1, x] and inside[y + 1, x] and inside[y, x - 1] and inside[y, x + 1]


@njit
def _any_positive(image):
    """Tell whether any pixel is above zero."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if image[y, x] > 0:
                return True
    return False


@njit
def _round_away(value):
    """Round to the nearest integer, halves away from zero, so that mirror images round alike."""
    return int(value + 0.5) if value >= 0 else -int(0.5 - value)


@njit
def _cast_shadows(template, light, ry, rx, ring, minor, along_x):
    """Limit the pixels behind one pixel, and behind the one opposite to it, to their heights."""
    if along_x:
        here, there = light[ry + minor, rx + ring], light[ry - minor, rx - ring]
        outside, side = rx, ry
    else:
        here, there = light[ry + ring, rx + minor], light[ry - ring, rx - minor]
        outside, side = ry, rx
    slope = minor / ring
    for step in range(1, min(MAX_RING_STEP, outside - ring) + 1):
        reach = ring + step
        first = max(minor + _round_away(step * (slope - SHADOW_SLOPE)), -side)
        last = min(minor + _round_away(step * (slope + SHADOW_SLOPE)), side)
        for other in range(first, last + 1):
            if along_x:
                y, x = other, reach
            else:
                y, x = reach, other
            if template[ry + y, rx + x] > here:
                template[ry + y, rx + x] = here
            if template[ry - y, rx - x] > there:
                template[ry - y, rx - x] = there


@njit
def make_monotonic(template, shadow):
    """Make a template decline outwards from its central pixel.

    Square rings are visited from the peak outwards; every pixel casts a shadow of five pixels away from the
    peak in which nothing may be higher than the pixel was when its group of five rings was begun.

    Parameters
    ----------
    template : (2 ry + 1, 2 rx + 1) float32 array
        Changed.
    shadow : array like the template
        Work space.
    """
    height, width = template.shape
    ry, rx = height // 2, width // 2
    for first in range(1, max(ry, rx) + 1, MAX_RING_STEP):
        copy_image(template, shadow)
        for ring in range(first, first + MAX_RING_STEP):
            if ring <= rx:
                for minor in range(-min(ring, ry), min(ring, ry) + 1):
                    _cast_shadows(template, shadow, ry, rx, ring, minor, True)
            if ring <= ry:
                for minor in range(-min(ring, rx), min(ring, rx) + 1):
                    _cast_shadows(template, shadow, ry, rx, ring, minor, False)


@njit
def template_halves(shape_y, shape_x, cy, cx, limit):
    """Half sizes of the largest box centred on a peak inside a stamp, at most ``limit``."""
    return min(cy, shape_y - 1 - cy, limit), min(cx, shape_x - 1 - cx, limit)


@njit
def build_templates(
    pixels,
    inside,
    peak_y,
    peak_x,
    psfs,
    is_psf,
    psf_images,
    sigma,
    edge_rule,
    network,
    limit,
    offsets,
    flat,
    ramped,
):
    """Templates of all peaks of a parent.

    Parameters
    ----------
    pixels : (ny, nx) float32 array
        Stamp of the parent with a margin for ramps; zero outside its footprint.
    inside : (ny, nx) bool array
        The footprint.
    peak_y, peak_x : (n,) int64 arrays
        Peaks in the stamp.
    psfs : (n, size, size) float64 array
        Point-spread function at each peak, centred, sum one.
    is_psf : (n,) bool array
        Point sources: their template is ``psf_images`` cut to the footprint.
    psf_images : (n, size, size) float64 array
        Fitted PSF times flux about the peak.
    sigma : float
        Noise of a pixel.
    edge_rule : int
        0 symmetric templates end where the mirror image leaves the footprint; 1 ramps continue them;
        2 a pixel whose mirror image is outside keeps its own value.
    network : (n, 2) int64 array
        Selection network of 25 values: templates are smoothed with a 5 x 5 median; not when it is empty.
    limit : int
        Largest half size of a template.
    offsets : (n + 1,) int64 array
        Template i is ``flat[offsets[i]:offsets[i + 1]]``.
    flat : float32 array
        Written.
    ramped : (n,) bool array
        Written: the template needed ramps.
    """
    ny, nx = pixels.shape
    padded, allowed = np.empty_like(pixels), np.empty_like(inside)
    for i in range(peak_y.shape[0]):
        cy, cx = peak_y[i], peak_x[i]
        ry, rx = template_halves(ny, nx, cy, cx, limit)
        template = flat[offsets[i] : offsets[i + 1]].reshape(2 * ry + 1, 2 * rx + 1)
        if is_psf[i]:
            _psf_template(psf_images[i], inside, cy, cx, template)
            continue
        symmetric_template(pixels, inside, cy, cx, template)
        if edge_rule == 1:
            ramped[i] = add_edge_ramps(
                pixels, inside, template, cy, cx, psfs[i], np.float32(3.0 * sigma), padded, allowed
            )
            if ramped[i]:
                symmetric_template(padded, allowed, cy, cx, template)
        elif edge_rule == 2:
            _keep_unpaired(pixels, inside, cy, cx, template)
        work = np.empty_like(template)
        if network.shape[0] > 0:
            window_median(template, 2, network, work)
            if _any_positive(work):  # a narrow source on noise may have nothing left
                copy_image(work, template)
        make_monotonic(template, work)
        for iy in range(2 * ry + 1):
            row, ok = template[iy], inside[cy - ry + iy, cx - rx : cx + rx + 1]
            for ix in range(2 * rx + 1):
                if not ok[ix]:
                    row[ix] = np.float32(0.0)


@njit
def _psf_template(image, inside, cy, cx, template):
    """Cut the image of a point source to the footprint."""
    ry, rx = template.shape[0] // 2, template.shape[1] // 2
    half = image.shape[0] // 2
    template[:] = np.float32(0.0)
    for dy in range(-min(ry, half), min(ry, half) + 1):
        for dx in range(-min(rx, half), min(rx, half) + 1):
            value = image[half + dy, half + dx]
            if inside[cy + dy, cx + dx] and value > 0:
                template[ry + dy, rx + dx] = value


@njit
def _keep_unpaired(pixels, inside, cy, cx, template):
    """Give pixels whose mirror image is outside the footprint their own value."""
    height, width = template.shape
    y0, x0 = cy - height // 2, cx - width // 2
    for iy in range(height):
        for ix in range(width):
            y, x = y0 + iy, x0 + ix
            if inside[y, x] and not inside[2 * cy - y, 2 * cx - x] and pixels[y, x] > 0:
                template[iy, ix] = pixels[y, x]
