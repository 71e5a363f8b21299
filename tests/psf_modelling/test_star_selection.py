import numpy as np
import pytest

from starmill.errors import AlgorithmError
from starmill.psf_modelling.star_selection import reserve_stars, select_stars


def catalogue(n_stars, n_large, seed=0, drift=0.0, sigma=1.5):
    """Stars of one size among a tail of larger sources; returns columns and which are stars."""
    rng = np.random.default_rng(seed)
    n = n_stars + n_large
    is_star = np.arange(n) < n_stars
    snr = 50 * (1 - rng.random(n)) ** -0.8
    x, y = rng.uniform(0, 1000, (2, n))
    width = sigma * (1 + drift * (x / 1000 - 0.5)) * np.where(is_star, 1.0, 1.2 + rng.gamma(2, 0.4, n))
    width *= 1 + rng.normal(0, 1, n) / snr
    columns = {"flux": 1000.0 * snr, "flux_err": np.full(n, 1000.0), "xx": width**2, "yy": width**2,
               "xy": np.zeros(n), "x": x, "y": y}  # fmt: skip
    return columns, is_star


@pytest.mark.parametrize(("n_stars", "n_large"), [(300, 200), (60, 400), (5, 3), (3, 0)])
def test_finds_the_locus(n_stars, n_large):
    columns, is_star = catalogue(n_stars, n_large)
    selection = select_stars(**columns)
    assert selection.selected[is_star].mean() >= 0.85  # 2.5 sigma of a Gaussian and of few numbers
    assert selection.selected[~is_star].sum() <= max(2, 0.06 * n_stars)


def test_follows_a_drift_over_the_field():
    columns, is_star = catalogue(300, 300, drift=0.2)
    selection = select_stars(**columns)
    assert selection.selected[is_star].mean() > 0.9
    edge = (
        selection.expected_width[columns["x"] > 950].mean()
        / selection.expected_width[columns["x"] < 50].mean()
    )
    assert abs(edge - 1.1 / 0.9) < 0.03


def test_cosmic_rays_below_the_locus_are_not_stars():
    columns, is_star = catalogue(100, 50)
    sharp = np.zeros(len(is_star), bool)
    sharp[110:130] = True
    columns["xx"][sharp] = columns["yy"][sharp] = 0.7**2
    selection = select_stars(**columns)
    assert not selection.selected[sharp].any()
    assert selection.selected[is_star].mean() > 0.85


def test_flags_nan_and_faint_sources_are_left_out():
    columns, _ = catalogue(50, 0)
    bad = np.zeros(50, bool)
    bad[:5] = True
    columns["xx"][5:8] = np.nan
    columns["flux"][8:10] = 10.0
    columns["x"][10] = np.nan
    selection = select_stars(**columns, bad=bad)
    assert not selection.selected[:11].any()
    assert selection.numbers["unflagged"] == 45


def test_elongated_sources_are_not_stars():
    columns, _ = catalogue(50, 0)
    columns["xx"][:3] *= 1.3
    columns["yy"][:3] *= 0.7
    assert not select_stars(**columns).selected[:3].any()


def test_no_source_is_an_error_with_numbers():
    columns, _ = catalogue(5, 0)
    columns["flux"][:] = 0.0
    with pytest.raises(AlgorithmError, match="no source is fit for a PSF star") as caught:
        select_stars(**columns)
    assert caught.value.numbers["sources"] == 5
    columns, _ = catalogue(5, 0)
    with pytest.raises(AlgorithmError, match="needed"):
        select_stars(**columns, min_stars=20)
    with pytest.raises(AlgorithmError, match="0 sources"):
        select_stars(**{name: np.zeros(0) for name in columns})


def test_reserve_is_seeded_and_of_the_right_size():
    reserved = reserve_stars(100, 0.2, seed=3)
    assert reserved.sum() == 20
    np.testing.assert_array_equal(reserved, reserve_stars(100, 0.2, seed=3))
    assert not reserve_stars(100, 0.0).any()
