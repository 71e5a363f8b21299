"""One source at a time in an image of noise."""

import numpy as np
from numpy.testing import assert_array_equal

from starmill.datamodel.exposure import Exposure
from starmill.datamodel.footprint import FootprintSet
from starmill.kernels.overlap import circular_apertures
from starmill.kernels.source_pixels import cut_stamps, hide_source, show_source
from starmill.measurement.noise_replacement import BAND_ROWS, source_pixels
from tests.measurement.scenes import disk_footprints, star_field
from tests.reference.source_pixels import image_of_source


def blend():
    """Two overlapping footprints, the second heavy, one partly outside the image."""
    rng = np.random.default_rng(1)
    image = rng.normal(100, 5, (40, 50)).astype(np.float32)
    light = disk_footprints([15, 48], [20, 30], 6)
    child = disk_footprints([20], [20], 5)
    values = rng.normal(500, 1, int(child.areas[0])).astype(np.float32)
    heavy = FootprintSet(
        child.spans, child.span_offsets, child.peaks, child.peak_offsets, image=values, variance=values * 2
    )
    both = FootprintSet.concatenate([light, heavy])
    return Exposure(image, variance=np.full_like(image, 25)), both, values


def test_each_source_sees_itself_and_noise_elsewhere():
    exposure, footprints, values = blend()
    pixels, *_ = source_pixels(exposure, footprints, 3, seed=4)
    noise = pixels.image[:, :50].copy()
    spans = []
    for i in range(3):
        own = footprints[i].spans.copy()
        own[:, 2] = np.minimum(own[:, 2], 49)
        spans.append(own)
    heavy = [None, None, values]
    for i in range(3):
        out = np.empty((1, 51, 51), np.float32)
        saved = np.empty((2, 200), np.float32)
        show_source(pixels, i, saved)
        expected = image_of_source(exposure.image, noise, spans, heavy, i)
        assert_array_equal(pixels.image[:, :50], expected)
        hide_source(pixels, i, saved)
        assert_array_equal(pixels.image[:, :50], noise)  # restored bit for bit
        stamp_mask = np.empty((1, 51, 51), np.int32)
        cut_stamps(pixels, np.array([0]), np.array([0]), out, out.copy(), stamp_mask, i)
        assert_array_equal(out[0, :40, :50], expected)
        assert (stamp_mask[0, 40:] == -1).all()


def test_noise_has_level_and_scatter_of_the_sky_and_depends_on_the_seed_only():
    exposure, x, y = star_field(5000.0, side=6)
    footprints = disk_footprints(x, y, 15)
    one, *_ = source_pixels(exposure, footprints, len(x), seed=7)
    same, *_ = source_pixels(exposure, footprints, len(x), seed=7)
    other, *_ = source_pixels(exposure, footprints, len(x), seed=8)
    assert_array_equal(one.image, same.image)
    inside = np.zeros(exposure.shape, np.int32)
    footprints.set_mask(inside, 1)
    noise = one.image[:, : exposure.shape[1]][inside > 0]
    assert (noise != other.image[:, : exposure.shape[1]][inside > 0]).mean() > 0.99
    sigma = np.sqrt(325)
    assert abs(noise.mean()) < 5 * sigma / np.sqrt(noise.size) + 1.0  # the level is measured to 1 count
    assert abs(noise.std() / sigma - 1) < 0.05  # 25,000 pixels and a clipped scatter


def test_exposure_is_not_changed_and_nan_never_enters():
    exposure, x, y = star_field(5000.0, side=3)
    exposure.image[10, 10] = np.nan
    exposure.variance[11, 11] = np.inf
    before = exposure.image.copy()
    pixels, *_ = source_pixels(exposure, disk_footprints(x, y, 8), 9)
    assert np.isfinite(pixels.image).all()
    assert np.isfinite(pixels.variance).all()
    assert_array_equal(exposure.image, before)


def test_sources_follow_their_neighbours_and_the_order_changes_no_bit():
    rng = np.random.default_rng(8)
    x, y = rng.uniform(20, 280, 60), rng.uniform(20, 680, 60)
    image = rng.normal(100, 5, (700, 300)).astype(np.float32)
    exposure = Exposure(image, variance=np.full_like(image, 25))
    pixels, _, _ = source_pixels(exposure, disk_footprints(x, y, 9), 60)
    assert_array_equal(np.sort(pixels.order), np.arange(60))
    bands = (np.floor(y + 0.5) - 9)[pixels.order] // BAND_ROWS
    assert (np.diff(bands) >= 0).all()
    assert all(
        (np.diff(np.floor(x + 0.5)[pixels.order][bands == band]) >= 0).all() for band in np.unique(bands)
    )
    radii = np.array([2.0, 5.0, 11.0])
    before = pixels.image.copy()
    one = circular_apertures(pixels, x, y, radii)
    assert_array_equal(pixels.image, before)
    other = circular_apertures(pixels._replace(order=rng.permutation(60)), x, y, radii)
    assert_array_equal(one, other)
