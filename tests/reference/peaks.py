"""Slow, obvious local maxima."""

from __future__ import annotations


def peaks_of(image, pixels, box):
    """Pixels not exceeded by a neighbour, off the rim of the box (x0, x1, y0, y1); else the highest."""
    x0, x1, y0, y1 = box
    found = []
    for y, x in sorted(pixels):
        if (
            x0 < x < x1 - 1
            and y0 < y < y1 - 1
            and not (image[y - 1 : y + 2, x - 1 : x + 2] > image[y, x]).any()
        ):
            found.append((y, x))
    if not found:
        found = [max(sorted(pixels), key=lambda p: image[p])]
    return found
