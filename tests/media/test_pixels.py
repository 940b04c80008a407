"""Pixel steps: what they promise beyond parity, and what they refuse."""

import logging

import numpy as np
import pytest
import torch

from watchword.errors import ConfigError, MediaError, RequestError
from watchword.media import PixelSpec, to_pixels
from watchword.media.spec import Size

BLIP = {"image_processor_type": "BlipImageProcessor", "size": {"height": 12, "width": 12}}
VIDEO = {
    "video_processor_type": "VideoLlavaVideoProcessor", "size": {"shortest_edge": 14}, "do_center_crop": True,
    "crop_size": {"height": 14, "width": 14}, "default_to_square": False,
}  # fmt: skip
SPECS = [PixelSpec.from_dict(BLIP), PixelSpec.from_dict(VIDEO)]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("spec", SPECS)
def test_leading_axes_are_kept_and_a_batch_equals_its_members(spec):
    frames = noise(2, 3, 20, 30, 3)
    batch = to_pixels(frames, spec)
    assert batch.shape[:3] == (2, 3, 3)
    assert batch.dtype == torch.float32
    for row in range(2):
        assert torch.equal(batch[row], to_pixels(frames[row], spec))
        assert torch.equal(batch[row, 1], to_pixels(frames[row, 1], spec))


@pytest.mark.parametrize("spec", SPECS)
def test_numpy_and_torch_with_colours_first_and_last_give_the_same(spec):
    frames = noise(2, 20, 30, 3)
    expected = to_pixels(frames, spec)
    first = frames.transpose(0, 3, 1, 2)
    for given in (first, torch.from_numpy(frames), torch.from_numpy(first.copy()), frames[:, ::-1][:, ::-1]):
        assert torch.equal(to_pixels(given, spec), expected)
    frames.flags.writeable = False
    assert torch.equal(to_pixels(frames, spec), expected)


@pytest.mark.parametrize("spec", SPECS)
def test_named_place_wins_over_the_guess(spec):
    frames = noise(1, 3, 30, 3)  # three rows: the guess is colours first
    assert torch.equal(
        to_pixels(frames, spec, channels="channels_last"),
        to_pixels(frames.transpose(0, 3, 1, 2), spec, channels="channels_first"),
    )
    with pytest.raises(RequestError, match="input_data_format: 'last', expected 'channels_first' or"):
        to_pixels(frames, spec, channels="last")


def test_opaque_frames_lose_their_fourth_colour_and_clear_ones_are_white():
    frames = noise(2, 20, 30, 4)
    frames[..., 3] = 255
    assert torch.equal(to_pixels(frames, SPECS[1]), to_pixels(frames[..., :3].copy(), SPECS[1]))
    frames[..., 3] = 0
    white = np.full((2, 20, 30, 3), 255, np.uint8)
    torch.testing.assert_close(to_pixels(frames, SPECS[1]), to_pixels(white, SPECS[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_number(spec, kind, value):
    frames = np.zeros((2, 20, 30, 3), np.float32)
    frames[1, 2, 3] = value
    with pytest.raises(
        MediaError, match="frames: 3 of 3600 values are NaN or infinite; expected finite numbers"
    ):
        to_pixels(kind(frames), spec)


def test_scaling_twice_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        to_pixels(np.full((20, 30, 3), 0.5, np.float32), SPECS[0])
    assert "between 0 and 1 already" in caplog.text


@pytest.mark.parametrize("spec", SPECS)
def test_frames_without_a_colour_axis_are_refused(spec):
    with pytest.raises(RequestError, match=r"frames of shape \(20, 30, 7\): no axis of 1 or 3"):
        to_pixels(noise(20, 30, 7), spec)
    with pytest.raises(
        RequestError, match=r"frames of 2 axes \(20, 30\); expected height, width and colours"
    ):
        to_pixels(noise(20, 30), spec)
    with pytest.raises(MediaError, match=r"frames of shape \(0, 20, 30, 3\) hold no pixel"):
        to_pixels(noise(0, 20, 30, 3), spec)


def test_colours_must_fit_the_means():
    with pytest.raises(RequestError, match="frames of 1 colours, image_mean has 3 values"):
        to_pixels(noise(20, 30, 1), SPECS[0])
    grey = PixelSpec.from_dict({**BLIP, "image_mean": [0.5], "image_std": [0.5]})
    assert to_pixels(noise(20, 30, 1), grey).shape == (1, 12, 12)


@pytest.mark.parametrize(
    "frames", [np.full((9, 9, 3), 300), np.full((9, 9, 3), 1.5), np.full((9, 9, 3), -0.5)]
)
def test_values_that_eight_bits_cannot_hold_are_refused_by_the_pillow_path(frames):
    low = frames.flat[0]
    with pytest.raises(
        MediaError, match=f"frames hold values from {low} to {low}; resizing needs whole numbers 0-255"
    ):
        to_pixels(frames, SPECS[0])


@pytest.mark.parametrize(
    ("size", "frame", "target"),
    [
        ({"height": 5, "width": 9}, (100, 50), (5, 9)),
        ({"shortest_edge": 224}, (301, 225), (299, 224)),
        ({"shortest_edge": 224}, (225, 301), (224, 299)),
        ({"shortest_edge": 224}, (100, 100), (224, 224)),
        ({"shortest_edge": 20, "longest_edge": 30}, (10, 100), (3, 30)),
        ({"shortest_edge": 20, "longest_edge": 100}, (10, 101), (10, 101)),
        ({"max_height": 40, "max_width": 90}, (100, 50), (40, 20)),
    ],
)
def test_size_gives_the_target(size, frame, target):
    assert Size.of(size).target(*frame) == target


def test_size_reads_numbers_and_pairs():
    assert Size.of(9).as_dict() == {"height": 9, "width": 9}
    assert Size.of(9, square=False).as_dict() == {"shortest_edge": 9}
    assert Size.of([3, 4]).as_dict() == {"height": 3, "width": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 3}}, r"size: keys \['height'\]; expected one of"),
        (
            {"size": {"height": 3, "width": 0}},
            "size: width is 0; expected a whole number of pixels from 1 up",
        ),
        ({"size": None}, "size: missing, and do_resize is on"),
        ({"do_center_crop": True}, "crop_size: missing, and do_center_crop is on"),
        (
            {"do_center_crop": True, "crop_size": {"shortest_edge": 3}},
            "crop_size: {'shortest_edge': 3}, where height",
        ),
        ({"resample": 9}, "resample: 9 is not a filter; expected 0 nearest, 1 lanczos"),
        ({"resample": "cubic"}, "resample: 'cubic' is not a filter"),
        (
            {"size": {"shortest_edge": 3, "longest_edge": 9}},
            "on the Pillow path; expected shortest_edge alone",
        ),
        ({"image_std": [0.5, 0, 0.5]}, r"image_std: \(0.5, 0.0, 0.5\) holds a zero"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PixelSpec.from_dict({**BLIP, **settings})


def test_filters_of_pillow_alone_are_refused_by_the_tensor_path():
    with pytest.raises(
        ConfigError, match="resample: 4 is not a filter of the tensor path; expected 0 nearest"
    ):
        PixelSpec.from_dict({**VIDEO, "resample": 4})
    with pytest.raises(ConfigError, match=r"size: \{'longest_edge': 9\} does not say how to resize"):
        to_pixels(noise(20, 30, 3), PixelSpec.from_dict({**VIDEO, "size": {"longest_edge": 9}}))
    with pytest.raises(ConfigError, match="path: 'gpu', expected 'pillow' or 'tensor'"):
        PixelSpec(path="gpu", size=Size(3, 3))


def test_spec_is_a_value_and_names_its_arithmetic():
    assert PixelSpec.from_dict(BLIP) == PixelSpec.from_dict(dict(BLIP))
    assert len({SPECS[0], SPECS[1], PixelSpec.from_dict(VIDEO)}) == 2
    assert (SPECS[0].path, SPECS[1].path) == ("pillow", "tensor")
    assert PixelSpec.from_dict({**BLIP, "image_processor_type": "BlipImageProcessorFast"}).path == "tensor"
    assert PixelSpec.from_dict(BLIP, path="tensor").path == "tensor"
