"""Arithmetic carries variance and mask; views share pixels."""

import numpy as np
import pytest

from starmill.datamodel.exposure import Exposure, ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.datamodel.mask import Mask, MaskPlanes
from starmill.datamodel.masked_image import MaskedImage
from starmill.errors import InputError

OPERATIONS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_variance_matches_many_noise_draws(name):
    rng = np.random.default_rng(5)
    shape, draws = (4, 5), 20000
    a, b = rng.uniform(50, 80, shape), rng.uniform(50, 80, shape)
    va, vb = rng.uniform(0.5, 2, shape), rng.uniform(0.5, 2, shape)
    result = OPERATIONS[name](MaskedImage(a, None, va), MaskedImage(b, None, vb))
    noisy_a = a + rng.normal(size=(draws, *shape)) * np.sqrt(va)
    noisy_b = b + rng.normal(size=(draws, *shape)) * np.sqrt(vb)
    scatter = OPERATIONS[name](noisy_a, noisy_b).var(axis=0)
    np.testing.assert_allclose(result.variance, scatter, rtol=0.05)  # 5 sigma of 20000 draws
    np.testing.assert_allclose(result.image, OPERATIONS[name](a, b), rtol=1e-6)


def test_scalars_scale_variance_and_masks_are_joined():
    image = MaskedImage(np.full((3, 3), 6.0), None, np.full((3, 3), 4.0))
    other = image.copy()
    image.mask.set("CR", (0, 0))
    other.mask.set("STREAK", (1, 1))
    assert (image * 2).variance[0, 0] == 16
    assert (image / 2).variance[0, 0] == 1
    assert (image - 5).variance[0, 0] == 4
    total = image + other
    assert total.mask.any("CR")[0, 0]
    assert total.mask.any("STREAK")[1, 1]
    assert "STREAK" not in image.mask.planes


def test_division_by_zero_is_no_data():
    a = MaskedImage(np.ones((2, 2)), None, np.ones((2, 2)))
    b = MaskedImage(np.array([[0.0, 1], [2, 4]]), None, np.ones((2, 2)))
    quotient = a / b
    assert quotient.mask.any("NO_DATA").tolist() == [[True, False], [False, False]]
    assert np.isfinite(quotient.image).all()
    assert np.isfinite(quotient.variance).all()


def test_not_a_number_is_flagged_and_does_not_spread():
    pixels = np.ones((3, 4))
    pixels[1, 2], pixels[0, 0] = np.nan, np.inf
    image = MaskedImage(pixels)
    assert image.mask.any("NO_DATA").sum() == 2
    assert np.isfinite(image.image).all()


def test_views_share_pixels_in_the_parent_frame():
    exposure = Exposure(np.arange(48.0).reshape(6, 8), origin=(100, 200), info=ObservationInfo(object="M13"))
    view = exposure[Box(102, 201, 3, 2)]
    assert view.origin == (102, 201)
    assert view.image[0, 0] == exposure.image[1, 2]
    view.image[...] = -1
    view.mask.set("SAT")
    assert (exposure.image == -1).sum() == 6
    assert exposure.mask.any("SAT").sum() == 6
    assert exposure.copy()[Box(102, 201, 3, 2)].info.object == "M13"
    with pytest.raises(InputError, match="not inside"):
        exposure[Box(0, 0, 2, 2)]


def test_wrong_shapes_are_refused_with_both_values():
    with pytest.raises(InputError, match=r"\(2, 3\).*\(2, 2\)"):
        MaskedImage(np.ones((2, 2)), None, np.ones((2, 3)))
    with pytest.raises(InputError, match="two dimensions"):
        MaskedImage(np.ones(4))
    with pytest.raises(InputError, match="complex"):
        MaskedImage(np.ones((2, 2), complex))


def test_mask_planes():
    planes = MaskPlanes()
    assert planes.bits("BAD", "NO_DATA") == 1 | 256
    with pytest.raises(InputError, match="did you mean SAT"):
        planes.bits("SATT")
    for i in range(31 - len(planes)):
        planes.add(f"P{i}")
    with pytest.raises(InputError, match="no bit is left"):
        planes.add("ONE_MORE")
    mask = Mask.zeros((2, 2))
    mask.set("CR", np.array([[True, False], [False, False]]))
    assert mask.fractions()["CR"] == 0.25
    mask.clear("CR", "NEVER_ADDED")
    assert not mask.any().any()


def test_fractions_are_those_of_the_planes_one_by_one():
    mask = Mask(np.random.default_rng(2).integers(0, 2**8, (150, 7)).astype(np.int32))
    mask.array[:70] &= ~np.int32(mask.bits("SAT"))
    for name, fraction in mask.fractions().items():
        assert fraction == mask.any(name).mean()


def test_masks_with_other_bit_orders_are_conformed():
    a = Mask.zeros((1, 2), MaskPlanes({"CR": "", "BAD": ""}))
    b = Mask.zeros((1, 2), MaskPlanes({"BAD": "", "STREAK": "", "CR": ""}))
    b.set("STREAK", (0, 0))
    b.set("CR", (0, 1))
    a |= b
    assert a.any("STREAK").tolist() == [[True, False]]
    assert a.any("CR").tolist() == [[False, True]]
    assert not a.any("BAD").any()


def test_ccddata_round_trip():
    rng = np.random.default_rng(1)
    exposure = Exposure(rng.normal(size=(5, 6)), variance=rng.random((5, 6)), origin=(3, 4), unit="ADU")
    exposure.mask.set("CROSSTALK", exposure.image > 1)
    exposure.mask.set("BAD", exposure.image < -1)
    ccd = exposure.to_ccddata()
    np.testing.assert_array_equal(ccd.mask, exposure.mask.any("BAD"))
    back = Exposure.from_ccddata(ccd)
    np.testing.assert_array_equal(back.image, exposure.image)
    np.testing.assert_array_equal(back.mask.array, exposure.mask.array)
    np.testing.assert_allclose(back.variance, exposure.variance, rtol=1e-6)  # through a standard deviation
    assert back.origin == (3, 4)
