import numpy as np
import pytest

from starmill.datamodel.geometry import Box
from starmill.errors import AlgorithmError, InputError, NoDataError
from starmill.isr.build_masters import combine_frames, frame_level
from starmill.isr.photon_transfer import fit_photon_transfer, flat_pair_points, read_noise_from_pairs


def test_the_variance_of_the_mean_is_the_scatter_of_means():
    rng = np.random.default_rng(1)
    frames = rng.normal(50, 6, (12, 300, 400)).astype(np.float32)
    combined = combine_frames(lambda k, y0, y1: frames[k, y0:y1], 12, (300, 400), minimum_sigma=6.0)
    scatter = combined.image.std()
    assert np.sqrt(combined.variance.mean()) == pytest.approx(scatter, rel=0.02)
    assert combined.image.mean() == pytest.approx(50, abs=5 * 6 / np.sqrt(12 * 120000))
    known = combine_frames(
        lambda k, y0, y1: (frames[k, y0:y1], None, np.full((y1 - y0, 400), 36, "f4")), 12, (300, 400)
    )
    assert np.sqrt(known.variance.mean()) == pytest.approx(known.image.std(), rel=0.02)


@pytest.mark.parametrize("n", [3, 4, 6, 10])
def test_one_outlier_frame_is_clipped(n):
    rng = np.random.default_rng(n)
    frames = rng.normal(10, 2, (n, 60, 300)).astype(np.float32)
    hit = rng.random((60, 300)) < 0.05
    frames[0][hit] += 500
    combined = combine_frames(
        lambda k, y0, y1: (frames[k, y0:y1], None, np.full((y1 - y0, 300), 4, "f4")), n, (60, 300)
    )
    assert (combined.image[hit] < 30).all()
    assert (combined.count[hit] <= n - 1).all()


def test_bands_threads_and_order_of_frames_do_not_matter():
    rng = np.random.default_rng(3)
    frames = rng.normal(100, 5, (5, 130, 70)).astype(np.float32)
    first = combine_frames(lambda k, y0, y1: frames[k, y0:y1], 5, (130, 70), rows=128, threads=1)
    for rows, threads, order in ((7, 2, [0, 1, 2, 3, 4]), (64, 1, [0, 1, 2, 3, 4])):
        other = combine_frames(
            lambda k, a, b, o=order: frames[o[k], a:b], 5, (130, 70), rows=rows, threads=threads
        )
        np.testing.assert_array_equal(other.image, first.image)
        np.testing.assert_array_equal(other.variance, first.variance)
    mixed = combine_frames(lambda k, y0, y1: frames[[3, 1, 4, 0, 2][k], y0:y1], 5, (130, 70))
    np.testing.assert_allclose(mixed.image, first.image, rtol=1e-6)


def test_masked_and_missing_values_have_no_influence():
    frames = np.full((4, 8, 9), 5.0, np.float32)
    rejected = np.zeros((4, 8, 9), bool)
    frames[1, 2, 3], rejected[1, 2, 3] = 900, True
    frames[2, 4, 4] = np.nan
    rejected[:, 7, 7] = True
    combined = combine_frames(lambda k, y0, y1: (frames[k, y0:y1], rejected[k, y0:y1]), 4, (8, 9))
    assert combined.image[2, 3] == 5
    assert combined.count[2, 3] == 3
    assert combined.count[4, 4] == 3
    assert combined.count[7, 7] == 0
    assert np.isfinite(combined.image).all()


def test_scaling_commutes_with_units():
    rng = np.random.default_rng(6)
    frames = rng.normal(1000, 10, (6, 20, 300)).astype(np.float32)
    scale = np.linspace(0.5, 2, 6)
    one = combine_frames(lambda k, a, b: frames[k, a:b], 6, (20, 300), scale=scale, minimum_sigma=4)
    ten = combine_frames(lambda k, a, b: 10 * frames[k, a:b], 6, (20, 300), scale=scale, minimum_sigma=40)
    np.testing.assert_allclose(ten.image, 10 * one.image, rtol=1e-5)
    np.testing.assert_allclose(ten.variance, 100 * one.variance, rtol=1e-4)


def test_levels_and_bad_input():
    image = np.full((40, 40), 7.0, np.float32)
    image[:5] = 1000
    assert frame_level(image) == 7
    assert frame_level(image, region=Box(0, 0, 40, 3)) == 1000
    with pytest.raises(AlgorithmError, match="valid=0"):
        frame_level(image, np.ones(image.shape, bool))
    with pytest.raises(NoDataError):
        combine_frames(lambda k, a, b: image[a:b], 0, (40, 40))
    with pytest.raises(InputError, match="frame 0 has rows"):
        combine_frames(lambda k, a, b: image[a:b, :3], 2, (40, 40))
    with pytest.raises(InputError, match="finite scale factors"):
        combine_frames(lambda k, a, b: image[a:b], 2, (40, 40), scale=[1, np.nan])


@pytest.mark.parametrize("model", ["linear", "exponential"])
def test_photon_transfer_recovers_gain_and_noise(model):
    rng = np.random.default_rng(8)
    gain, noise = 1.7, 4.0
    illumination = np.linspace(0.7, 1.1, 256)[None, :] * np.ones((256, 1))
    response = 1 + 0.02 * rng.standard_normal((256, 256))
    biases = [rng.normal(0, noise / gain, (256, 256)) for _ in range(4)]
    read_noise = read_noise_from_pairs(biases)
    assert read_noise == pytest.approx(noise / gain, rel=0.01)
    points = []
    levels = (20000, 21000) if model == "linear" else (5000, 20000, 40000, 70000)
    for level in levels:
        flats = [
            (rng.poisson(level * factor * illumination * response) + rng.normal(0, noise, (256, 256))) / gain
            for factor in (1.0, 0.9)
        ]
        points.append(flat_pair_points(*flats))
    fit = fit_photon_transfer(
        *(np.concatenate(p) for p in zip(*points, strict=True)), read_noise, model=model
    )
    assert fit.gain == pytest.approx(gain, abs=max(4 * fit.gain_err, 0.01 * gain))
    assert fit.gain_err < 0.03 * gain
    assert fit.read_noise == pytest.approx(noise, rel=0.02)


def test_photon_transfer_refuses_too_little():
    with pytest.raises(InputError, match="two frames"):
        read_noise_from_pairs([np.ones((4, 4))])
    with pytest.raises(AlgorithmError, match="too few flat cells"):
        fit_photon_transfer([100.0], [50.0], [1000], 1.0)
    with pytest.raises(InputError, match="model"):
        fit_photon_transfer([100.0], [50.0], [1000], 1.0, model="cubic")
