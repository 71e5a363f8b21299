"""Linearity, crosstalk, saturation, brighter-fatter, fringes, defects: each on a known truth."""

import numpy as np
import pytest

from starmill.datamodel.calibration import Crosstalk, Linearity
from starmill.errors import AlgorithmError, InputError
from starmill.isr.brighter_fatter import correct_brighter_fatter, kernel_from_covariances
from starmill.isr.crosstalk import measure_crosstalk, subtract_crosstalk
from starmill.isr.defects import bright_defects, dark_defects, fill_bad_columns
from starmill.isr.fringe import fit_fringes, subtract_fringes
from starmill.isr.linearity import correct_linearity, fit_linearity, linearity_correction
from starmill.isr.saturation import fill_flagged, grow_flag, widen_saturation_trails
from starmill.isr.variance import poisson_variance
from starmill.simulation.detector import distort_linearity

NODES = (0.0, 10000.0, 30000.0, 60000.0)


@pytest.mark.parametrize(
    "linearity",
    [
        Linearity("polynomial", (3e-7, -1e-12)),
        Linearity("squared", (4e-7,)),
        Linearity("lookup_table", (0.0, 30.0, 200.0, 900.0), NODES),
        Linearity("spline", (0.0, -30.0, -200.0, -900.0), NODES),
    ],
)
def test_correct_linearity_adds_the_correction_in_one_amplifier_only(detector, linearity):
    amplifier = detector.amplifiers[1]
    image = np.random.default_rng(1).uniform(0, 80000, detector.box.shape).astype(np.float32)
    before = image.copy()
    correct_linearity(image, amplifier, linearity)
    part = amplifier.box.slices()
    expected = before[part] + amplifier.gain * linearity_correction(before[part] / amplifier.gain, linearity)
    np.testing.assert_allclose(image[part], expected, atol=0.05)  # table steps of 4 adu
    outside = np.ones(image.shape, bool)
    outside[part] = False
    np.testing.assert_array_equal(image[outside], before[outside])


def test_the_correction_undoes_the_distortion():
    linearity = Linearity("polynomial", (3e-7, -1e-12))
    true = np.linspace(0, 55000, 200)
    measured = distort_linearity(true, linearity)
    np.testing.assert_allclose(measured + linearity_correction(measured, linearity), true, atol=1e-6)


def test_fit_linearity_recovers_the_coefficients():
    linearity = Linearity("polynomial", (3e-7, -1e-12))
    light = np.linspace(1, 100, 25)
    measured = distort_linearity(500 * light, linearity)
    found = fit_linearity(measured, light, order=2)
    np.testing.assert_allclose(found, linearity.coefficients, rtol=1e-6)
    with pytest.raises(AlgorithmError, match="too few exposures"):
        fit_linearity(measured[:2], light[:2])


@pytest.mark.parametrize(
    ("kind", "coefficients", "nodes"),
    [("cubic", (), ()), ("squared", (1, 2), ()), ("spline", (1, 2), (5, 5))],
)
def test_impossible_linearity_is_refused(kind, coefficients, nodes):
    with pytest.raises(InputError):
        Linearity(kind, coefficients, nodes)


def test_measured_crosstalk_is_the_simulated_one(detector):
    rng = np.random.default_rng(2)
    truth = np.array(detector.crosstalk.linear)
    images = []
    for _ in range(3):
        image = rng.normal(0, 5, detector.box.shape)
        spots = rng.random(image.shape) < 0.01
        image[spots] = 60000
        images.append(_leak(image, detector, truth))
    found, error = measure_crosstalk(images, detector)
    assert np.abs(found - truth).max() < 5 * error.max()
    corrected = images[0].astype(np.float32)
    mask = np.zeros(corrected.shape, np.int32)
    subtract_crosstalk(corrected, mask, detector, detector.crosstalk, bit=512)
    faint = corrected < 1000
    assert corrected[faint].std() == pytest.approx(5, rel=0.03)
    assert (mask[faint] == 512).any()


def _leak(image, detector, matrix):
    result = image.copy()
    parts = [
        image[a.box.slices()][:: -1 if a.flip_y else 1, :: -1 if a.flip_x else 1] for a in detector.amplifiers
    ]
    for i, victim in enumerate(detector.amplifiers):
        total = sum(matrix[i, j] * parts[j] for j in range(4))
        step_y, step_x = -1 if victim.flip_y else 1, -1 if victim.flip_x else 1
        result[victim.box.slices()] += total[::step_y, ::step_x]
    return result


def test_crosstalk_of_the_wrong_size_is_refused(detector):
    image, mask = np.zeros(detector.box.shape, "f4"), np.zeros(detector.box.shape, "i4")
    with pytest.raises(InputError, match="size 2"):
        subtract_crosstalk(image, mask, detector, Crosstalk(((0, 0.1), (0.1, 0))), bit=1)


def test_flags_grow_by_manhattan_distance():
    mask = np.zeros((9, 9), np.int32)
    mask[4, 4] = 2
    mask[0, 0] = 2
    grow_flag(mask, 2, 2)
    y, x = np.indices(mask.shape)
    expected = (np.abs(y - 4) + np.abs(x - 4) <= 2) | (y + x <= 2)
    np.testing.assert_array_equal(mask == 2, expected)
    image = np.zeros((9, 9), np.float32)
    assert fill_flagged(image, mask, 2, 7.0) == expected.sum()
    np.testing.assert_array_equal(image == 7, expected)


def test_trails_widen_most_at_the_core():
    saturated = np.zeros((60, 40), bool)
    saturated[5:55, 20] = True
    saturated[28:33, 18:23] = True
    saturated[10, 2:6] = True  # not a trail
    widened = widen_saturation_trails(saturated, half_width=3)
    assert widened[saturated].all()
    width = widened.sum(axis=1)
    assert width[30] == 5 + 2 * 3
    assert width[6] < width[20] < width[30]
    np.testing.assert_array_equal(widened[10, :10], saturated[10, :10])


def test_variance_of_counts():
    np.testing.assert_allclose(poisson_variance(np.array([-5.0, 0.0, 100.0]), 3.0), [9, 9, 109])


def test_brighter_fatter_is_undone_and_conserves_charge():
    y, x = np.indices((65, 65)) - 32.0
    true = 1000 + 40000 * np.exp(-(x**2 + y**2) / (2 * 3.0**2))
    r = np.hypot(*np.indices((9, 9)) - 4.0)
    kernel = -3e-7 * np.exp(-r / 1.5)
    observed = true - correct_brighter_fatter(true, kernel, max_iterations=1).correction
    fit = correct_brighter_fatter(observed, kernel, max_iterations=20, threshold=1.0)
    assert fit.converged
    effect = np.abs(observed - true).max()
    assert effect > 20
    assert np.abs(observed + fit.correction - true)[6:-6, 6:-6].max() < 0.05 * effect
    assert abs(fit.correction.sum()) < 1e-5 * np.abs(fit.correction).sum()
    expanded = correct_brighter_fatter(observed, kernel, max_iterations=20, conserve_flux=False)
    np.testing.assert_allclose(expanded.correction, fit.correction, atol=0.1 * effect)
    assert not fit.correction[:4].any()


def test_brighter_fatter_refuses_odd_input():
    with pytest.raises(InputError, match="odd side"):
        correct_brighter_fatter(np.ones((50, 50)), np.ones((4, 4)))
    with pytest.raises(AlgorithmError, match="too small"):
        correct_brighter_fatter(np.ones((8, 8)), np.ones((7, 7)))


def test_kernel_solves_the_poisson_equation():
    covariances = np.zeros((6, 6))
    covariances[0, 1] = covariances[1, 0] = 40.0
    covariances[0, 0] = -160.0
    kernel = kernel_from_covariances(covariances, 20000.0)
    laplacian = (
        kernel[:-2, 1:-1] + kernel[2:, 1:-1] + kernel[1:-1, :-2] + kernel[1:-1, 2:] - 4 * kernel[1:-1, 1:-1]
    )
    source = np.zeros((11, 11))
    source[5, 4] = source[5, 6] = source[4, 5] = source[6, 5] = -40.0 / (2 * 20000.0**2)
    source[5, 5] = 160.0 / (2 * 20000.0**2)
    np.testing.assert_allclose(laplacian, source[1:-1, 1:-1], atol=1e-12)


def test_fringes_are_fitted_and_removed():
    rng = np.random.default_rng(5)
    y, x = np.indices((300, 320))
    fringes = [np.sin(x / 3 + y / 19) * 10, np.cos(y / 3) * 8]
    image = 500 + 0.05 * x + 1.7 * fringes[0] - 0.6 * fringes[1] + rng.normal(0, 4, x.shape)
    mask = np.zeros(image.shape, bool)
    mask[100:120, 100:150] = True
    image[mask] += 1e4
    fit = fit_fringes(image, fringes, mask, samples=4000, small=1, large=25, seed=3)
    np.testing.assert_allclose(fit.amplitudes, [1.7, -0.6], atol=0.05)
    left = subtract_fringes(image, fringes, fit.amplitudes)[~mask] - (500 + 0.05 * x)[~mask]
    assert left.std() == pytest.approx(4, rel=0.02)
    with pytest.raises(AlgorithmError, match="too small"):
        fit_fringes(image[:50, :50], [f[:50, :50] for f in fringes])


def test_defects_from_darks_and_flats():
    rng = np.random.default_rng(6)
    dark = rng.normal(0.02, 0.01, (200, 200)).astype(np.float32)
    dark[50, 60] = 5
    bad = bright_defects(dark, minimum_rate=0.5)
    assert bad.sum() == 1
    assert bad[50, 60]
    x = np.linspace(0.6, 1, 200)
    flat = (x[None, :] * rng.normal(1, 0.01, (200, 200))).astype(np.float32)
    flat[10:150:2, 77] = 0.1
    found = dark_defects(flat)
    assert found[10:150:2, 77].all()
    assert found.sum() == 70
    filled = fill_bad_columns(found)
    assert filled[10:149, 77].all()
    assert filled.sum() == 139
    with pytest.raises(AlgorithmError, match="too few valid pixels"):
        bright_defects(dark[:5, :5])
