r"""Images of Sersic profiles convolved with the PSF, drawn as sums of Gaussians, with derivatives.

A profile of half-light ellipse Theta (the matrix whose unit ellipse it is, pixels**2) is
sum_k a_k N(v_k Theta), the PSF sum_j b_j N(s_j M), so the image is
sum_jk a_k b_j N(v_k Theta + s_j M). All derivatives are analytic.

References
----------
Hogg & Lang 2013, PASP 125, 719 (profiles as mixtures of Gaussians).
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit

REACH2 = 24.0  # Gaussians are cut at rho**2
WIDTH = 96  # longest row of a fitted box; a constant distance lets the compiler vectorise
N_ROWS = 7  # value and derivatives by x, y, xx, yy, xy, ln n
MERGED = 0.03  # Gaussians of a profile that widen the PSF's by less than this part count as one


@njit
def _interpolate(table, log_indices, log_n, amplitudes, slopes):
    """Amplitudes of the mixture for an index and their derivatives by ln n."""
    last = log_indices.size - 1
    k = 0
    while k < last - 1 and log_n > log_indices[k + 1]:
        k += 1
    width = log_indices[k + 1] - log_indices[k]
    t = min(max((log_n - log_indices[k]) / width, 0.0), 1.0)
    for m in range(amplitudes.size):
        amplitudes[m] = (1.0 - t) * table[k, m] + t * table[k + 1, m]
        slopes[m] = (table[k + 1, m] - table[k, m]) / width


@njit
def _set_gaussian(g, cxx, cyy, cxy, weight, slope, scale):
    """Keep what the rows need of a Gaussian: inverse covariance, reach in y, amplitudes, scale."""
    det = cxx * cyy - cxy * cxy
    norm = 1.0 / (2.0 * np.pi * np.sqrt(det))
    g[0], g[1], g[2] = cyy / det, cxx / det, -cxy / det
    g[3] = np.sqrt(REACH2 * cyy)
    g[4], g[5], g[6] = weight * norm, slope * norm, scale
    g[7] = np.exp(-g[0])


@njit
def mixture(p, table, log_indices, variances, psf, psf_scales, work, gaussians):
    """Fill the Gaussians of a model of unit flux; returns their number.

    Parameters
    ----------
    p : (7,) float64 array
        Parameters; the flux is not used.
    table : (n_indices, n_gaussians) float64 array
        Amplitudes of the mixture by index.
    log_indices : (n_indices,) float64 array
    variances : (n_gaussians,) float64 array
        Of the mixture, in units of the half-light ellipse, ascending.
    psf : (3 + n_psf,) float64 array
        xx, yy, xy of the PSF and the amplitudes of its Gaussians.
    psf_scales : (n_psf,) float64 array
    work : (2, n_gaussians) float64 array
        Scratch.
    gaussians : (n_gaussians * n_psf, 8) float64 array
        Written.
    """
    _interpolate(table, log_indices, p[6], work[0], work[1])
    txx, tyy = np.exp(p[3]), np.exp(p[4])
    txy = np.tanh(p[5]) * np.sqrt(txx * tyy)
    small = MERGED * psf_scales[0] * min(psf[0], psf[1]) / max(txx, tyy)
    n = 0
    light = slope = spread = 0.0
    for k in range(variances.size):
        merge = variances[k] < small
        if merge:
            light += work[0, k]
            slope += work[1, k]
            spread += work[0, k] * variances[k]
        last_merged = merge and (k + 1 == variances.size or not variances[k + 1] < small)
        if merge and not last_merged:
            continue
        if merge:
            a, b, v = light, slope, spread / light if light > 0.0 else variances[k]
        else:
            a, b, v = work[0, k], work[1, k], variances[k]
        if a == 0.0 and b == 0.0:
            continue
        for j in range(psf_scales.size):
            s = psf_scales[j]
            _set_gaussian(
                gaussians[n], v * txx + s * psf[0], v * tyy + s * psf[1], v * txy + s * psf[2], a * psf[3 + j],
                b * psf[3 + j], v,
            )  # fmt: skip
            n += 1
    return n


@fast_njit
def _add_row(block, profile, n, u, w, ixx, iyy, ixy, light, slope, scale):
    """Add one Gaussian and its derivatives to a row; ``block`` starts at its first pixel, ``u``, ``w`` are those of it."""
    half = 0.5 * light * scale
    full = light * scale
    for k in range(n):
        g = profile[k]
        x = u + ixx * k
        y = w + ixy * k
        block[k] += light * g
        block[WIDTH + k] += light * g * x
        block[2 * WIDTH + k] += light * g * y
        block[3 * WIDTH + k] += half * g * (x * x - ixx)
        block[4 * WIDTH + k] += half * g * (y * y - iyy)
        block[5 * WIDTH + k] += full * g * (x * y - ixy)
        block[6 * WIDTH + k] += slope * g


@njit
def model_row(gaussians, n, cx, cy, y, x0, width, profile, block):
    """Fill one row of a model and its derivatives.

    Parameters
    ----------
    gaussians : (>= n, 8) float64 array
        As :func:`mixture` fills it.
    cx, cy : float
        Centre, array index.
    y, x0, width : int
        Row, first column and number of pixels, at most ``WIDTH``.
    profile : (WIDTH,) float64 array
        Scratch.
    block : (7 * WIDTH,) float64 array
        Written: value and derivatives by x, y, xx, yy, xy, ln n of the model of unit flux.
    """
    for q in range(N_ROWS):
        for k in range(width):
            block[q * WIDTH + k] = 0.0
    dy = y - cy
    for m in range(n):
        g = gaussians[m]
        if abs(dy) > g[3]:
            continue
        ixx, iyy, ixy = g[0], g[1], g[2]
        disc = (ixy * dy) ** 2 - ixx * (iyy * dy * dy - REACH2)
        if disc <= 0.0:
            continue
        half = np.sqrt(disc) / ixx
        middle = cx - ixy * dy / ixx
        first = max(0, int(np.ceil(middle - half)) - x0)
        last = min(width - 1, int(np.floor(middle + half)) - x0)
        if last < first:
            continue
        dx = x0 + first - cx
        value = np.exp(-0.5 * (ixx * dx * dx + 2.0 * ixy * dx * dy + iyy * dy * dy))
        ratio = np.exp(-ixx * (dx + 0.5) - ixy * dy)
        step = g[7]
        for i in range(last - first + 1):
            profile[i] = value
            value *= ratio
            ratio *= step
        _add_row(
            block[first:], profile, last - first + 1, ixx * dx + ixy * dy, ixy * dx + iyy * dy, ixx, iyy, ixy, g[4], g[5],
            g[6],
        )  # fmt: skip
