"""Search for pixels that are sharper than the point-spread function, in the order that the search defines.

A pixel that is taken is replaced at once by the mean of two opposite neighbours, so the pixels right of it and
below see the repaired value. Rows are screened with vector arithmetic; only candidates, and the neighbour right of
a pixel just replaced, are tested one by one, which gives the same answer as testing all.
"""

from __future__ import annotations

import numpy as np

from starmill.kernels._jit import fast_njit, njit

_LONGER_BRIDGE = (
    1.5  # a diagonal over one pixel (2.83) still counts beside a row (2), one over two (4.24) does not
)


@fast_njit
def _screen_row(above, row, below, variance, n_sigma_squared, floor, flags):
    """Mark the pixels that can pass the first condition; returns how many there are.

    ``flags[x]`` belongs to pixel ``x + 1``.
    """
    n = row.size - 2
    left, centre, right = row[:n], row[1 : n + 1], row[2:]
    above_left, above_centre, above_right = above[:n], above[1 : n + 1], above[2:]
    below_left, below_centre, below_right = below[:n], below[1 : n + 1], below[2:]
    noise = variance[1 : n + 1]
    half = np.float32(0.5)
    zero = np.float32(0.0)
    count = 0
    for x in range(n):
        least = left[x] + right[x]
        other = above_centre[x] + below_centre[x]
        least = other if (other < least) | (least != least) else least
        other = above_left[x] + below_right[x]
        least = other if (other < least) | (least != least) else least
        other = above_right[x] + below_left[x]
        least = other if (other < least) | (least != least) else least
        excess = centre[x] - half * least
        passes = (centre[x] >= floor) & (excess >= zero) & (excess * excess >= n_sigma_squared * noise[x])
        flags[x] = passes
        count += passes
    return count


@njit
def _pair(image, variance, mask, reject_bits, y, x, dy, dx):
    """Mean of two opposite neighbours and the half sum of their variances; NaN when one of them is bad."""
    if (mask[y - dy, x - dx] | mask[y + dy, x + dx]) & reject_bits:
        return np.nan, np.nan
    mean = 0.5 * (np.float64(image[y - dy, x - dx]) + np.float64(image[y + dy, x + dx]))
    noise = 0.5 * np.sqrt(np.float64(variance[y - dy, x - dx]) + np.float64(variance[y + dy, x + dx]))
    return mean, noise


@njit
def sharper_than_psf(image, variance, mask, reject_bits, y, x, n_sigma, contrast, noise_factor, background):
    """Test one pixel; returns whether it is a cosmic ray, and the value that replaces it.

    ``contrast`` holds the largest allowed ratio of neighbour to centre along y, along x, and diagonally.
    Pairs of neighbours with a bad pixel do not count; a variance that is not positive is unknown, and the pixel is
    not taken. A negative ``n_sigma`` is an absolute threshold on the value instead.
    """
    value = np.float64(image[y, x])
    if not (value >= 0.0 and variance[y, x] > 0.0):
        return False, value
    sigma = np.sqrt(np.float64(variance[y, x]))
    ns, ns_noise = _pair(image, variance, mask, reject_bits, y, x, 1, 0)
    we, we_noise = _pair(image, variance, mask, reject_bits, y, x, 0, 1)
    swne, swne_noise = _pair(image, variance, mask, reject_bits, y, x, 1, 1)
    nwse, nwse_noise = _pair(image, variance, mask, reject_bits, y, x, 1, -1)
    if n_sigma < 0.0:
        if value < -n_sigma:
            return False, value
    else:
        step = n_sigma * sigma
        if not (value >= ns + step or value >= we + step or value >= swne + step or value >= nwse + step):
            return False, value
    height = value - background - noise_factor * sigma
    if contrast[0] * height > ns - background + noise_factor * ns_noise:
        return True, ns
    if contrast[1] * height > we - background + noise_factor * we_noise:
        return True, we
    if contrast[2] * height > swne - background + noise_factor * swne_noise:
        return True, swne
    if contrast[2] * height > nwse - background + noise_factor * nwse_noise:
        return True, nwse
    return False, value


@njit
def _is_allowed(mask, y, x, reject_bits, interpolated_bit):
    """Whether the pixel may be called a cosmic ray: it is good and has no interpolated neighbour."""
    if mask[y, x] & reject_bits:
        return False
    for j in range(y - 1, y + 2):
        for i in range(x - 1, x + 2):
            if mask[j, i] & interpolated_bit:
                return False
    return True


@njit
def find_sharp_pixels(
    image, variance, mask, reject_bits, interpolated_bit, n_sigma, contrast, noise_factor, background, limit
):
    """Scan an image for cosmic-ray pixels, replacing them as they are found.

    Parameters
    ----------
    image : (ny, nx) float32 array
        Changed in place.
    variance : (ny, nx) float32 array
    mask : (ny, nx) int32 array
    reject_bits, interpolated_bit : int32
        Planes of pixels that are never taken; plane of pixels whose neighbours are not taken.
    n_sigma, contrast, noise_factor, background
        As in :func:`sharper_than_psf`.
    limit : int
        Largest number of pixels.

    Returns
    -------
    pixels : (n, 2) int32 array
        y, x in the order of the scan.
    values : (n,) float32 array
        Values before the replacement.
    complete : bool
        False when the limit was reached.
    """
    ny, nx = image.shape
    pixels = np.empty((min(limit, 4096), 2), np.int32)
    values = np.empty(min(limit, 4096), np.float32)
    flags = np.zeros(8 * ((nx + 7) // 8), np.uint8)
    words = flags.view(np.uint64)
    squared = np.float32(n_sigma * n_sigma * (1.0 - 1e-5)) if n_sigma >= 0.0 else np.float32(-1.0)
    floor = np.float32(max(0.0, -n_sigma))
    n = 0
    for y in range(1, ny - 1):
        row = image[y]
        if _screen_row(image[y - 1], row, image[y + 1], variance[y], squared, floor, flags) == 0:
            continue
        replaced = False
        k = 0
        while k < nx - 2:
            if k % 8 == 0 and words[k // 8] == 0 and not replaced:
                k += 8
                continue
            k += 1  # flag k - 1 belongs to pixel k
            if flags[k - 1] == 0 and not replaced:
                continue
            replaced = False
            found, estimate = sharper_than_psf(
                image, variance, mask, reject_bits, y, k, n_sigma, contrast, noise_factor, background
            )
            if not found or not _is_allowed(mask, y, k, reject_bits, interpolated_bit):
                continue
            if n == limit:
                return pixels[:n], values[:n], False
            if n == values.size:
                pixels, values = _doubled(pixels, values, limit)
            pixels[n, 0] = y
            pixels[n, 1] = k
            values[n] = row[k]
            n += 1
            row[k] = estimate
            replaced = True
    return pixels[:n], values[:n], True


@njit
def _doubled(pixels, values, limit):
    """Return copies of the lists with twice the room, at most ``limit``."""
    n = values.size
    capacity = min(2 * n, limit)
    more_pixels = np.empty((capacity, 2), np.int32)
    more_values = np.empty(capacity, np.float32)
    more_pixels[:n] = pixels
    more_values[:n] = values
    return more_pixels, more_values


@njit
def grow_from_spans(
    image, variance, mask, spans, reject_bits, interpolated_bit, n_sigma, contrast, background
):
    """Test the pixels around every span with a lower threshold, replacing those that pass.

    Parameters
    ----------
    image, variance, mask, reject_bits, interpolated_bit, n_sigma, contrast, background
        As in :func:`find_sharp_pixels`; the noise factor is zero.
    spans : (n, 3) int32 array
        y, x0, x1 (inclusive). The rows above, of, and below each span are tested from x0 - 1 to x1 + 1.

    Returns
    -------
    pixels : (m, 2) int32 array
    owners : (m,) int64 array
        Index of the span that each pixel was found from.
    """
    ny, nx = image.shape
    total = 0
    for i in range(spans.shape[0]):
        total += 3 * (spans[i, 2] - spans[i, 1] + 3)
    pixels = np.empty((total, 2), np.int32)
    owners = np.empty(total, np.int64)
    n = 0
    for i in range(spans.shape[0]):
        for y in range(max(spans[i, 0] - 1, 1), min(spans[i, 0] + 2, ny - 1)):
            for x in range(max(spans[i, 1] - 1, 1), min(spans[i, 2] + 2, nx - 1)):
                found, estimate = sharper_than_psf(
                    image, variance, mask, reject_bits, y, x, n_sigma, contrast, 0.0, background
                )
                if not found or not _is_allowed(mask, y, x, reject_bits, interpolated_bit):
                    continue
                pixels[n, 0] = y
                pixels[n, 1] = x
                owners[n] = i
                n += 1
                image[y, x] = estimate
    return pixels[:n], owners[:n]


@njit
def _is_good(image, bad, y, x):
    """Whether the pixel is inside the image, finite and not bad."""
    if y < 0 or y >= bad.shape[0] or x < 0 or x >= bad.shape[1] or bad[y, x]:
        return False
    return image[y, x] - image[y, x] == 0


@njit
def _side(image, bad, y, x, dy, dx, reach):
    """Distance to the first good pixel in a direction, and how many good ones follow (at most two); 0 without."""
    for step in range(1, reach + 1):
        if _is_good(image, bad, y + step * dy, x + step * dx):
            if _is_good(image, bad, y + (step + 1) * dy, x + (step + 1) * dx):
                return step, 2
            return step, 1
    return 0, 0


@njit
def _predict_along(image, bad, y, x, dy, dx, table, reach):
    """Prediction of a pixel along one line, the sum of squared weights, and the distance that it bridges.

    The sum of squared weights is zero when a side has no good pixel.
    """
    left, n_left = _side(image, bad, y, x, -dy, -dx, reach)
    right, n_right = _side(image, bad, y, x, dy, dx, reach)
    if n_left == 0 or n_right == 0:
        return 0.0, 0.0, 0.0
    weights = table[n_left, n_right, left + right - 1, left - 1]
    value = 0.0
    squares = 0.0
    steps = (-left - 1, -left, right, right + 1)
    for k in range(4):
        if weights[k] != 0.0:
            value += weights[k] * image[y + steps[k] * dy, x + steps[k] * dx]
            squares += weights[k] * weights[k]
    return value, squares, (left + right) * np.sqrt(np.float64(dy * dy + dx * dx))


@njit
def _combine_lines(values, squares, bridges, lines, noise, background):
    """Mean, by precision, of the lines that bridge little more than the shortest one and agree with the lowest.

    They agree within three sigma and a quarter of the height of the lowest: on a star they differ by more than
    their noise.
    """
    shortest = bridges[:lines].min()
    lowest = np.inf
    lowest_squares = 1.0
    for i in range(lines):
        if bridges[i] <= _LONGER_BRIDGE * shortest and values[i] < lowest:
            lowest = values[i]
            lowest_squares = squares[i]
    total = 0.0
    weight = 0.0
    for i in range(lines):
        slack = 3.0 * np.sqrt(noise * (squares[i] + lowest_squares)) + 0.25 * abs(lowest - background)
        if bridges[i] <= _LONGER_BRIDGE * shortest and values[i] - lowest <= slack:
            total += values[i] / squares[i]
            weight += 1.0 / squares[i]
    return total / weight


@njit
def predict_pixels(image, variance, bad, pixels, straight, diagonal, reach, background, out, out_variance):
    """Value of bad pixels from their neighbours along the row, the column and the diagonals.

    A line along a track bridges a long gap and knows nothing of a star under the middle of it, so only lines about
    as short as the shortest one count. What else lies near, the unflagged rest of a track, raises some of their
    predictions; those that agree with the lowest are averaged.

    Parameters
    ----------
    image, variance : (ny, nx) float32 arrays
    bad : (ny, nx) bool array
        Pixels that are not used.
    pixels : (n, 2) int32 array
        y, x of the pixels to predict.
    straight, diagonal : (3, 3, longest + 1, longest, 4) float64 arrays
        Weights, with ``longest >= 2 reach - 1``.
    reach : int
        Largest distance of the nearest good pixel.
    background : float
        Value of a pixel with no good pixel within reach on both sides of any line.
    out, out_variance : (n,) float64 arrays
        Values, and the mean variance of the good pixels around.
    """
    values = np.empty(4)
    squares = np.empty(4)
    bridges = np.empty(4)
    for k in range(pixels.shape[0]):
        y = pixels[k, 0]
        x = pixels[k, 1]
        lines = 0
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            table = diagonal if dy * dx != 0 else straight
            value, weight, bridge = _predict_along(image, bad, y, x, dy, dx, table, reach)
            if weight > 0.0:
                values[lines], squares[lines], bridges[lines] = value, weight, bridge
                lines += 1
        out_variance[k] = _mean_good_variance(variance, bad, y, x)
        out[k] = background
        if lines > 0:
            out[k] = _combine_lines(values, squares, bridges, lines, out_variance[k], background)


@njit
def _mean_good_variance(variance, bad, y, x):
    """Mean variance of the good pixels around one; its own without any."""
    ny, nx = bad.shape
    total = 0.0
    n = 0
    for j in range(max(y - 2, 0), min(y + 3, ny)):
        for i in range(max(x - 2, 0), min(x + 3, nx)):
            if not bad[j, i] and variance[j, i] - variance[j, i] == 0:
                total += variance[j, i]
                n += 1
    return total / n if n > 0 else np.float64(variance[y, x])
