import json

import numpy as np
import pytest

from starmill.datamodel.calibration import Crosstalk, Defects, Linearity, MasterFrame
from starmill.datamodel.camera import Amplifier, Camera, Detector, format_section, parse_section
from starmill.datamodel.exposure import ObservationInfo
from starmill.datamodel.geometry import Box
from starmill.datamodel.masked_image import MaskedImage
from starmill.datamodel.raw_frame import RawFrame
from starmill.errors import InputError

AMPLIFIER = {
    "name": "A", "data": "[11:30,1:40]", "overscan": "[31:36,1:40]", "section": "[20:1,1:40]", "gain": 1.5,
    "read_noise": 4, "saturation": 60000, "linearity": {"kind": "squared", "coefficients": [1e-7]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "box", "flips"),
    [
        ("[1:10,1:20]", Box(0, 0, 10, 20), (False, False)),
        ("[ 17: 528,   1: 520]", Box(16, 0, 512, 520), (False, False)),
        ("[10:1,20:3]", Box(0, 2, 10, 18), (True, True)),
    ],
)
def test_sections_are_one_based_and_inclusive(text, box, flips):
    assert parse_section(text) == (box, *flips)
    assert parse_section(format_section(box, *flips)) == (box, *flips)


@pytest.mark.parametrize("text", ["", "[1:10]", "[0:10,1:5]", "[a:b,1:2]", "1:10,1:20"])
def test_wrong_sections_are_refused(text):
    with pytest.raises(InputError):
        parse_section(text)


def test_round_trip_through_plain_values():
    amplifier = Amplifier.from_dict(AMPLIFIER)
    assert amplifier.flip_x
    assert not amplifier.flip_y
    assert amplifier.raw_box == Box(10, 0, 26, 40)
    detector = Detector("chip", (amplifier,), None, Defects((Box(1, 2, 3, 4),)), extension=1)
    camera = Camera("cam", (detector,), "text", {"R": "r"}, config={"isr": {"dark": False}})
    copy = Camera.from_dict(json.loads(json.dumps(camera.to_dict())))
    assert copy == camera
    assert camera.band("R") == "r"
    assert camera.band("X") == "X"


def test_detector_knows_its_shapes():
    low = Amplifier.from_dict(AMPLIFIER)
    high = Amplifier.from_dict(AMPLIFIER | {"name": "B", "data": "[11:30,41:80]", "overscan": "[31:36,41:80]",
                                            "section": "[1:20,41:80]"})  # fmt: skip
    detector = Detector("chip", (low, high))
    assert detector.box == Box(0, 0, 20, 80)
    assert detector.raw_shape == (80, 36)
    assert detector.with_amplifiers(B={"gain": 2.0}).amplifier("B").gain == 2
    assert detector.amplifier("B").gain == 1.5
    with pytest.raises(InputError, match="no amplifier 'C'"):
        detector.amplifier("C")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": 0}, "gain must be positive"),
        ({"gain": float("nan")}, "gain must be positive"),
        ({"read_noise": -1}, "read noise cannot be negative"),
        ({"section": "[1:10,1:40]"}, "do not fill"),
        ({"overscan": "[31:36,1:20]"}, "different rows"),
        ({"raw": "[1:20,1:40]"}, "leaves its raw section"),
        ({"readout_corner": "left"}, "readout corner"),
        ({"gian": 3}, "did you mean gain"),
    ],
)
def test_impossible_amplifiers_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Amplifier.from_dict(AMPLIFIER | change)


def test_impossible_cameras_are_refused():
    amplifier = Amplifier.from_dict(AMPLIFIER)
    with pytest.raises(InputError, match="names repeat"):
        Detector("chip", (amplifier, amplifier))
    with pytest.raises(InputError, match="size 2"):
        Detector("chip", (amplifier,), Crosstalk(((0, 0.1), (0.1, 0))))
    with pytest.raises(InputError, match="fixed geometry"):
        Camera("cam")
    with pytest.raises(InputError, match="did you mean detectors"):
        Camera.from_dict({"name": "cam", "detector": []})
    with pytest.raises(InputError, match="has no detector 'chop'; did you mean chip"):
        Camera("cam", (Detector("chip", (amplifier,)),)).detector("chop")


def test_defects_cover_exactly_the_bad_pixels():
    bad = np.random.default_rng(1).random((30, 40)) < 0.2
    bad[:, 17] = True
    defects = Defects.from_mask(bad)
    np.testing.assert_array_equal(defects.mask(bad.shape), bad)
    column = np.zeros((30, 40), bool)
    column[3:28, 5] = True
    assert Defects.from_mask(column).boxes == (Box(5, 3, 1, 25),)
    assert Defects.from_dict(defects.to_dict()) == defects
    assert len(defects + defects) == len(defects)


def test_linearity_and_crosstalk_round_trip():
    linearity = Linearity("spline", (0.0, 1.0), (0.0, 10.0))
    assert Linearity.from_dict(linearity.to_dict()) == linearity
    crosstalk = Crosstalk(((0, 1e-4), (2e-4, 0)), ((0, 1e-9), (0, 0)), 30000.0)
    assert Crosstalk.from_dict(crosstalk.to_dict()) == crosstalk
    for wrong in (((0, 1),), ((1, 0), (0, 0))):
        with pytest.raises(InputError):
            Crosstalk(wrong)


def test_masters_and_raw_frames_check_what_they_are_given():
    pixels = MaskedImage(np.zeros((40, 20), np.float32))
    master = MasterFrame("dark", pixels, valid_from=10, valid_to=20)
    assert master.is_valid(15)
    assert not master.is_valid(25)
    assert not master.has_variance
    assert master.unit == "electron/s"
    with pytest.raises(InputError, match="not 'sky'"):
        MasterFrame("sky", pixels)
    with pytest.raises(InputError, match="cannot be valid"):
        MasterFrame("bias", pixels, valid_from=2, valid_to=1)
    detector = Detector("chip", (Amplifier.from_dict(AMPLIFIER),))
    with pytest.raises(InputError, match=r"\(10, 10\), detector chip needs \(40, 36\)"):
        RawFrame(np.zeros((10, 10), np.uint16), detector, ObservationInfo())
    with pytest.raises(InputError, match="uint16 or float32"):
        RawFrame(np.zeros((40, 36)), detector, ObservationInfo())
