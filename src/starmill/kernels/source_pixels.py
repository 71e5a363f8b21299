"""Show one source at a time: its own pixels in an image where all sources are noise.

The working image holds noise wherever any footprint lies.  Before a source is
measured its own values are written over that noise, afterwards the noise is put
back, bit for bit.  The cost is twice the area of the footprint, no image and no
stamp is copied.

Every measuring kernel takes one :class:`SourcePixels` and loops over its sources::

    for i in pixels.order:
        show_source(pixels, i, saved)
        ...                            # read pixels.image, pixels.variance
        hide_source(pixels, i, saved)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from starmill.kernels._jit import njit


class SourcePixels(NamedTuple):
    """The pixels that measuring kernels read.

    Attributes
    ----------
    image, variance : (ny, nx + padding) float32 array
        Working copies; finite everywhere, all footprints replaced by noise. The zeros beyond
        ``nx`` keep the rows of an image of 2**k columns from falling into the same cache lines.
    mask : (ny, nx) int32 array
        Mask bits; never changed. Its shape is that of the image.
    spans : (n_spans, 3) int32 array
        Rows ``y, x0, x1`` (``x1`` inclusive) in array indices, inside the image.
    span_offsets : (n + 1,) int64 array
        Spans of source i are ``spans[span_offsets[i]:span_offsets[i + 1]]``.
    pixel_offsets : (n + 1,) int64 array
        The same for ``values`` and ``variances``.
    values, variances : (n_pixels,) float32 array
        Own pixels of each source in span order (the apportioned ones of a child).
    order : (n,) int64 array
        The sources so that one follows another in its neighbourhood, whose pixels are then still in the
        cache: from left to right in bands of rows. What is measured does not depend on it.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray
    spans: np.ndarray
    span_offsets: np.ndarray
    pixel_offsets: np.ndarray
    values: np.ndarray
    variances: np.ndarray
    order: np.ndarray


@njit
def largest_footprint(pixels):
    """Return the largest number of own pixels of any source (at least 1)."""
    largest = 1
    offsets = pixels.pixel_offsets
    for i in range(offsets.size - 1):
        largest = max(largest, offsets[i + 1] - offsets[i])
    return largest


@njit
def show_source(pixels, i, saved):
    """Write the own pixels of source ``i`` into the working image, keeping the old ones in ``saved``.

    Parameters
    ----------
    pixels : SourcePixels
        Changed in place until :func:`hide_source` is called.
    i : int
        Source.
    saved : (2, largest footprint) float32 array
        Receives the image and variance under the footprint.
    """
    image = pixels.image.ravel()
    variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    kept, kept_variance = saved[0], saved[1]
    k = np.uint64(0)
    own = np.uint64(pixels.pixel_offsets[i])
    for s in range(pixels.span_offsets[i], pixels.span_offsets[i + 1]):
        x0 = np.int64(pixels.spans[s, 1])
        n = np.uint64(pixels.spans[s, 2] + 1 - x0)
        here = np.uint64(np.int64(pixels.spans[s, 0]) * stride + x0)
        for x in range(n):
            kept[k + x] = image[here + x]
            image[here + x] = pixels.values[own + k + x]
        for x in range(n):
            kept_variance[k + x] = variance[here + x]
            variance[here + x] = pixels.variances[own + k + x]
        k += n


@njit
def hide_source(pixels, i, saved):
    """Put back what :func:`show_source` has replaced."""
    image = pixels.image.ravel()
    variance = pixels.variance.ravel()
    stride = pixels.image.shape[1]
    kept, kept_variance = saved[0], saved[1]
    k = np.uint64(0)
    for s in range(pixels.span_offsets[i], pixels.span_offsets[i + 1]):
        x0 = np.int64(pixels.spans[s, 1])
        n = np.uint64(pixels.spans[s, 2] + 1 - x0)
        here = np.uint64(np.int64(pixels.spans[s, 0]) * stride + x0)
        for x in range(n):
            image[here + x] = kept[k + x]
        for x in range(n):
            variance[here + x] = kept_variance[k + x]
        k += n


@njit
def count_inside(spans, span_offsets, shape, n_spans, n_pixels):
    """Count the spans and pixels of each source that lie inside an image of ``shape``.

    ``n_spans`` and ``n_pixels`` are (n,) int64 arrays that receive the counts.
    """
    ny, nx = shape
    for i in range(span_offsets.size - 1):
        n_spans[i] = 0
        n_pixels[i] = 0
        for s in range(span_offsets[i], span_offsets[i + 1]):
            x0 = max(spans[s, 1], 0)
            x1 = min(spans[s, 2], nx - 1)
            if 0 <= spans[s, 0] < ny and x0 <= x1:
                n_spans[i] += 1
                n_pixels[i] += x1 - x0 + 1


@njit
def collect_inside(spans, span_offsets, heavy, heavy_variance, heavy_offsets, pixels):
    """Fill ``pixels.spans``, ``.values`` and ``.variances`` from the part of the spans inside the image.

    Parameters
    ----------
    spans : (n_spans, 3) int32 array
        Array indices; may reach outside the image.
    span_offsets : (n + 1,) int64 array
    heavy, heavy_variance : (n_heavy,) float32 array
        Own pixels of heavy sources in span order; ``heavy_variance`` may be empty.
    heavy_offsets : (n + 1,) int64 array
        Sources with an empty range are not heavy.
    pixels : SourcePixels
        With offsets filled; its image and variance give the pixels of sources that are not heavy.
    """
    ny, nx = pixels.mask.shape
    image = pixels.image.ravel()
    variance = pixels.variance.ravel()
    for i in range(span_offsets.size - 1):
        is_heavy = heavy_offsets[i + 1] > heavy_offsets[i]
        source = heavy_offsets[i]
        row = pixels.span_offsets[i]
        k = pixels.pixel_offsets[i]
        for s in range(span_offsets[i], span_offsets[i + 1]):
            y = spans[s, 0]
            x0 = max(spans[s, 1], 0)
            x1 = min(spans[s, 2], nx - 1)
            if 0 <= y < ny and x0 <= x1:
                pixels.spans[row, 0] = y
                pixels.spans[row, 1] = x0
                pixels.spans[row, 2] = x1
                row += 1
                n = x1 - x0 + 1
                place = y * pixels.image.shape[1] + x0
                own = source + x0 - spans[s, 1]
                if is_heavy:
                    _copy_run(heavy, own, pixels.values, k, n)
                else:
                    _copy_run(image, place, pixels.values, k, n)
                if is_heavy and heavy_variance.size > 0:
                    _copy_run(heavy_variance, own, pixels.variances, k, n)
                else:
                    _copy_run(variance, place, pixels.variances, k, n)
                k += n
            source += spans[s, 2] - spans[s, 1] + 1


@njit
def _copy_run(source, start, target, place, n):
    """Copy ``n`` values; unsigned indices, so that the compiler has no negative ones to think of."""
    a = np.uint64(start)
    b = np.uint64(place)
    for k in range(np.uint64(n)):
        target[b + k] = source[a + k]


@njit
def fill_spans(image, spans, values):
    """Write ``values`` (cyclic) into ``image`` under ``spans``, in span order."""
    k = 0
    n = values.size
    for s in range(spans.shape[0]):
        y = spans[s, 0]
        for x in range(spans[s, 1], spans[s, 2] + 1):
            image[y, x] = values[k]
            k += 1
            if k == n:
                k = 0


@njit
def clean_copy(image, variance, out_image, out_variance):
    """Copy image and variance with zero wherever either is not finite or the variance negative.

    Returns
    -------
    n_replaced : int
        Pixels that were replaced.
    """
    n_replaced = 0
    for y in range(image.shape[0]):
        source = image[y]
        source_variance = variance[y]
        target = out_image[y]
        target_variance = out_variance[y]
        for x in range(image.shape[1]):
            value = source[x]
            spread = source_variance[x]
            good = np.isfinite(value) and np.isfinite(spread) and spread >= 0.0
            target[x] = value if good else np.float32(0.0)
            target_variance[x] = spread if good else np.float32(0.0)
            n_replaced += 0 if good else 1
    return n_replaced


@njit
def cut_stamps(pixels, x0, y0, out_image, out_variance, out_mask, first):
    """Cut a stamp around every source of a block while its neighbours are noise.

    Parameters
    ----------
    pixels : SourcePixels
        Sources ``first`` to ``first + n - 1`` are cut.
    x0, y0 : (n,) int64 array
        Array index of the lower left stamp pixel; may lie outside the image.
    out_image, out_variance : (n, size, size) float32 array
        Receives the pixels; 0 outside the image.
    out_mask : (n, size, size) int32 array
        Receives the mask; -1 outside the image.
    first : int
        Index of the first source of the block.
    """
    ny, nx = pixels.mask.shape
    size = out_image.shape[1]
    saved = np.empty((2, largest_footprint(pixels)), np.float32)
    for i in range(x0.size):
        show_source(pixels, first + i, saved)
        for j in range(size):
            y = y0[i] + j
            for k in range(size):
                x = x0[i] + k
                if 0 <= y < ny and 0 <= x < nx:
                    out_image[i, j, k] = pixels.image[y, x]
                    out_variance[i, j, k] = pixels.variance[y, x]
                    out_mask[i, j, k] = pixels.mask[y, x]
                else:
                    out_image[i, j, k] = 0.0
                    out_variance[i, j, k] = 0.0
                    out_mask[i, j, k] = -1
        hide_source(pixels, first + i, saved)


@njit
def inside_footprints(spans, span_offsets, x, y):
    """Whether each position (array index) lies in the footprint of its source; True without footprint."""
    n = x.size
    out = np.ones(n, np.bool_)
    for i in range(n):
        if span_offsets[i + 1] == span_offsets[i]:
            continue
        out[i] = False
        if not (np.isfinite(x[i]) and np.isfinite(y[i])):
            continue
        ix = int(np.floor(x[i] + 0.5))
        iy = int(np.floor(y[i] + 0.5))
        for s in range(span_offsets[i], span_offsets[i + 1]):
            if spans[s, 0] == iy and spans[s, 1] <= ix <= spans[s, 2]:
                out[i] = True
                break
    return out
