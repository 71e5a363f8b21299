"""Linear algebra gives the same bits whatever number of threads the process has."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from starmill.execution.blas_threads import _controls, one_blas_thread


def test_the_number_of_threads_is_one_inside_and_as_before_outside():
    assert _controls(), "the libraries of numpy and scipy are found"
    before = [getter() for getter, _ in _controls()]
    with one_blas_thread():
        assert [getter() for getter, _ in _controls()] == [1] * len(before)
    assert [getter() for getter, _ in _controls()] == before


def test_products_and_solutions_have_the_same_bits():
    rng = np.random.default_rng(8)
    matrix = rng.normal(size=(700, 300))
    results = []
    for threads in (1, 2):
        old = [getter() for getter, _ in _controls()]
        for _, setter in _controls():
            setter(threads)
        with one_blas_thread():
            results.append((matrix.T @ matrix, scipy.linalg.lstsq(matrix, matrix[:, 0])[0]))
        for (_, setter), count in zip(_controls(), old, strict=True):
            setter(count)
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)
