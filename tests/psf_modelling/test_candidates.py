import numpy as np
import pytest
from tests.psf_modelling.star_field import star_field

from starmill.errors import AlgorithmError, InputError
from starmill.psf_modelling.candidates import extract_star_stamps, require_usable


@pytest.fixture(scope="module")
def field():
    return star_field(n_side=4, pixels=256, flux=2e4)


def test_stamps_hold_the_pixels_around_the_star(field):
    stamps = field.stamps(size=21)
    for k in range(len(stamps)):
        y0, x0 = stamps.y0[k], stamps.x0[k]
        np.testing.assert_array_equal(stamps.images[k], field.image[y0 : y0 + 21, x0 : x0 + 21])
    assert np.abs(stamps.dx).max() <= 0.5
    assert stamps.good.all()


def test_origin_moves_positions_not_pixels(field):
    moved = extract_star_stamps(
        field.image, field.variance, field.mask, field.x + 100, field.y - 7, size=21, origin=(100, -7)
    )
    plain = field.stamps(size=21)
    np.testing.assert_array_equal(moved.images, plain.images)
    np.testing.assert_array_equal(moved.x0, plain.x0 + 100)


def test_variance_model_separates_sky_and_star(field):
    stamps = field.stamps(size=31)
    np.testing.assert_allclose(stamps.sky_variance, 300, rtol=0.02)
    assert abs(stamps.gain_slope - 1) < 0.05  # the variance is in electrons


def test_masked_and_missing_pixels_are_not_good(field):
    mask, image = field.mask.copy(), field.image.copy()
    ix, iy = int(field.x[0] + 0.5), int(field.y[0] + 0.5)
    mask[iy, ix] = 4
    mask[iy + 1, ix] = 64
    image[iy, ix + 1] = np.nan
    stamps = extract_star_stamps(image, field.variance, mask, field.x[:1], field.y[:1], size=11, bad_bits=4)
    assert not stamps.good[0, 5, 5]
    assert not stamps.good[0, 5, 6]
    assert stamps.good[0, 6, 5]
    assert np.isfinite(stamps.images).all()


def test_stamps_may_leave_the_image(field):
    stamps = extract_star_stamps(field.image, field.variance, field.mask, [2.0], [250.0], size=21)
    assert not stamps.good[0, :, :8].any()
    assert stamps.good[0, 5, 10]
    assert np.isfinite(stamps.variances).all()


def test_neighbours_lose_their_pixels(field):
    other_x, other_y = np.append(field.x, field.x[0] + 8.0), np.append(field.y, field.y[0])
    stamps = field.stamps(size=41, neighbour_x=other_x, neighbour_y=other_y)
    assert not stamps.good[0, 20, 20 + 6 :].any()
    assert stamps.good[0, 20, : 20 + 3].all()
    assert stamps.good[5].all()


def test_other_detections_are_masked_and_the_own_one_is_not(field):
    mask = field.mask.copy()
    ix, iy = int(field.x[0] + 0.5), int(field.y[0] + 0.5)
    mask[iy - 3 : iy + 4, ix - 3 : ix + 4] = 32
    mask[iy + 8 : iy + 10, ix] = 32
    stamps = extract_star_stamps(
        field.image, field.variance, mask, field.x[:1], field.y[:1], size=41, detected_bits=32
    )
    assert stamps.good[0, 17:24, 17:24].all()
    assert not stamps.good[0, 20 + 6 : 20 + 12, 20].any()


def test_unusable_input_is_refused(field):
    with pytest.raises(InputError, match="odd"):
        field.stamps(size=20)
    with pytest.raises(InputError, match="finite"):
        extract_star_stamps(field.image, field.variance, field.mask, [np.nan], [3.0], size=21)
    stamps = field.stamps(size=21)
    stamps.good[:] = False
    with pytest.raises(AlgorithmError, match="clean core") as caught:
        require_usable(stamps, 3)
    assert caught.value.numbers["candidates"] == 16
