"""Fields: values at positions equal values on pixels, whatever the kind."""

import numpy as np
import pytest

from starmill.datamodel.field import ChebyshevField, ConstantField, FieldSum, PolynomialField, field_from_dict
from starmill.datamodel.geometry import Box
from starmill.datamodel.spline_field import SplineField
from starmill.errors import InputError

BOX = Box(100, -20, 37, 29)


def make_fields():
    rng = np.random.default_rng(2)
    x = np.linspace(104, 130, 6)
    y = np.linspace(-16, 5, 5)
    holes = rng.normal(size=(5, 6))
    holes[2, 3] = holes[0, 0] = np.nan
    return {
        "constant": ConstantField(BOX, 3.5),
        "chebyshev": ChebyshevField(BOX, rng.normal(size=(4, 3))),
        "polynomial": PolynomialField(BOX, rng.normal(size=(2, 4))),
        "akima": SplineField(BOX, x, y, rng.normal(size=(5, 6))),
        "holes": SplineField(BOX, x, y, holes, "natural"),
        "linear": SplineField(BOX, x[:2], y[:2], rng.normal(size=(2, 2)), "akima"),
        "one node": SplineField(BOX, x[:1], y[:1], [[2.0]], "akima"),
        "sum": ChebyshevField(BOX, rng.normal(size=(2, 2))) + 4.0,
        "product": PolynomialField(BOX, rng.normal(size=(2, 2))) * ConstantField(BOX, 2),
    }


@pytest.mark.parametrize("name", make_fields())
def test_positions_agree_with_pixels_and_dictionaries(name):
    field = make_fields()[name]
    y, x = np.mgrid[BOX.y0 : BOX.y1, BOX.x0 : BOX.x1]
    image = field.image()
    assert image.shape == BOX.shape
    np.testing.assert_allclose(field(x, y), image, rtol=1e-10, atol=1e-10)
    part = Box(110, -10, 7, 5)
    np.testing.assert_allclose(field.image(part), image[part.slices(BOX.origin)], rtol=1e-10, atol=1e-10)
    again = field_from_dict(field.to_dict())
    np.testing.assert_array_equal(again.image(), image)


def test_chebyshev_reaches_one_at_the_pixel_edges():
    field = ChebyshevField(BOX, [[0.0, 1.0]])
    np.testing.assert_allclose(field(BOX.x0 - 0.5, 0), -1)
    np.testing.assert_allclose(field(BOX.x1 - 0.5, 0), 1)


def test_splines_reproduce_what_they_can():
    x, y = np.linspace(100, 136, 9), np.linspace(-20, 8, 7)
    plane = 3 + 0.1 * x[None, :] - 0.2 * y[:, None]
    field = SplineField(BOX, x, y, plane)
    yy, xx = np.mgrid[BOX.y0 - 3 : BOX.y1 + 3, BOX.x0 - 3 : BOX.x1 + 3]
    np.testing.assert_allclose(field(xx, yy), 3 + 0.1 * xx - 0.2 * yy, atol=1e-9)


def test_bad_fields():
    with pytest.raises(InputError, match="no node"):
        SplineField(BOX, [1.0], [1.0], [[np.nan]])
    with pytest.raises(InputError, match="unknown kind"):
        field_from_dict({"kind": "wavelet"})
    with pytest.raises(InputError, match="at least one"):
        FieldSum([])
