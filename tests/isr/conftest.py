"""A small detector, and masters for it."""

import numpy as np
import pytest

from starmill.datamodel.calibration import Crosstalk, Linearity, MasterFrame
from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.raw_frame import RawFrame
from starmill.simulation.detector import make_detector, quadrant_detector

SHAPE = (128, 160)


@pytest.fixture
def detector():
    linear = [[0 if i == j else 1e-4 * (1 + i + 2 * j) for j in range(4)] for i in range(4)]
    linearity = {
        name: Linearity("squared", (c,)) for name, c in zip("ABCD", (3e-7, 2e-7, 4e-7, 1e-7), strict=True)
    }
    return quadrant_detector(SHAPE, crosstalk=Crosstalk.from_dict({"linear": linear}), linearity=linearity)


@pytest.fixture
def model(detector):
    return make_detector(np.random.default_rng(5), detector)


@pytest.fixture
def master():
    def make(kind, image, variance=0.0, mask=None, **properties):
        image = np.broadcast_to(np.float32(image), SHAPE).copy()
        pixels = MaskedImage(image, mask, np.full(SHAPE, variance, np.float32))
        return MasterFrame(kind, pixels, properties=properties)

    return make


@pytest.fixture
def raw_frame(detector):
    def make(array, exposure_time=10.0, chip=None):
        info = ObservationInfo(exposure_time=exposure_time, dark_time=exposure_time, filter="r")
        return RawFrame(array, chip or detector, info, path="frame.fits")

    return make
