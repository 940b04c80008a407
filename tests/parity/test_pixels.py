"""Pixels against the reference's processors: equal bit for bit, floats included, whatever is handed in."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessor as RefBlip
from transformers import InstructBlipVideoImageProcessor as RefFrames
from transformers import VideoLlavaImageProcessor as RefPictures
from transformers.models.instructblipvideo.video_processing_instructblipvideo import (
    InstructBlipVideoVideoProcessor as RefBlipVideo,
)
from transformers.models.video_llava.video_processing_video_llava import VideoLlavaVideoProcessor as RefVideo

from watchword.hf.image_processing import (
    BlipImageProcessor,
    InstructBlipVideoImageProcessor,
    VideoLlavaImageProcessor,
)
from watchword.hf.video_processing import InstructBlipVideoVideoProcessor, VideoLlavaVideoProcessor

SIZES = [
    (7, 5),
    (30, 30),
    (31, 47),
    (225, 301),
    (301, 225),
    (224, 224),
    (480, 227),
    (100, 399),
    (223, 640),
    (2, 9),
]
IMAGES = [(BlipImageProcessor, RefBlip), (VideoLlavaImageProcessor, RefPictures)]
VIDEOS = [(InstructBlipVideoVideoProcessor, RefBlipVideo), (VideoLlavaVideoProcessor, RefVideo)]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def compare(ours, reference, media, **call):
    """Same keys, same types, and every tensor equal in every bit."""
    call = {"return_tensors": "pt", **call}
    a, b = ours(media, **call), reference(media, **call)
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("ours", "reference"), IMAGES)
def test_pictures_equal_the_reference_for_odd_sizes(ours, reference, size):
    compare(ours(), reference(), noise(*size, 3))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("ours", "reference"), VIDEOS)
def test_clips_equal_the_reference_for_odd_sizes(ours, reference, size):
    compare(ours(), reference(), noise(3, *size, 3))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize(("ours", "reference"), IMAGES)
def test_pillow_modes_equal_the_reference(ours, reference, mode):
    if mode == "I;16":
        picture = Image.fromarray(noise(40, 60).astype(np.uint16))
    else:
        picture = (
            Image.fromarray(noise(40, 60, 4), "RGBA")
            .convert("RGB" if mode == "CMYK" else "RGBA")
            .convert(mode)
        )
    compare(ours(), reference(), picture)


@pytest.mark.parametrize("layout", ["numpy first", "torch first", "torch last", "list", "batch", "nested"])
@pytest.mark.parametrize(("ours", "reference"), IMAGES)
def test_picture_layouts_equal_the_reference(ours, reference, layout):
    picture = noise(50, 70, 3)
    media = {
        "numpy first": picture.transpose(2, 0, 1),
        "torch first": torch.from_numpy(picture.transpose(2, 0, 1).copy()),
        "torch last": torch.from_numpy(picture),
        "list": [picture, noise(90, 33, 3)],
        "batch": noise(2, 40, 41, 3),
        "nested": [[picture], [noise(20, 33, 3)]],
    }[layout]
    if layout == "nested" and reference is RefPictures:  # flat lists only there
        assert ours()(media, return_tensors="pt")["pixel_values_images"].shape[0] == 2
        return
    compare(ours(), reference(), media)


@pytest.mark.parametrize("kind", ["unit float32", "whole float64", "int64", "unit float16"])
@pytest.mark.parametrize(("ours", "reference"), IMAGES)
def test_picture_number_types_equal_the_reference(ours, reference, kind):
    picture = noise(50, 70, 3)
    picture = {
        "unit float32": lambda: picture.astype(np.float32) / 255,
        "whole float64": lambda: picture.astype(np.float64),
        "int64": lambda: picture.astype(np.int64),
        "unit float16": lambda: (picture / 255).astype(np.float16),
    }[kind]()
    compare(ours(), reference(), picture)
    compare(ours(), reference(), picture, do_rescale=False)


@pytest.mark.parametrize(
    "call",
    [
        {"do_resize": False}, {"do_rescale": False}, {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False}, {"resample": 0}, {"resample": 1}, {"resample": 2},
        {"resample": 4}, {"resample": 5}, {"rescale_factor": 1 / 127.5},
        {"image_mean": 0.5, "image_std": 0.25},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}, {"size": {"height": 33, "width": 61}},
        {"data_format": "channels_last"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(("ours", "reference"), IMAGES)
def test_picture_settings_equal_the_reference(ours, reference, call):
    compare(ours(), reference(), noise(50, 70, 3), **call)
    compare(
        ours(**{k: v for k, v in call.items() if k != "data_format"}),
        reference(**call),
        noise(50, 70, 3),
        **call,
    )


@pytest.mark.parametrize(
    "crop", [30, {"height": 61, "width": 20}, {"height": 90, "width": 91}, {"height": 20, "width": 99}]
)
@pytest.mark.parametrize("size", [(51, 70), (70, 51), (50, 50)])
def test_picture_crops_equal_the_reference_when_larger_and_smaller(crop, size):
    compare(
        VideoLlavaImageProcessor(), RefPictures(), noise(*size, 3), size={"shortest_edge": 50}, crop_size=crop
    )


@pytest.mark.parametrize(
    "crop", [30, {"height": 61, "width": 20}, {"height": 90, "width": 91}, {"height": 20, "width": 99}]
)
@pytest.mark.parametrize("size", [(51, 70), (70, 51), (50, 50)])
def test_clip_crops_equal_the_reference_when_larger_and_smaller(crop, size):
    compare(
        VideoLlavaVideoProcessor(), RefVideo(), noise(2, *size, 3), size={"shortest_edge": 50}, crop_size=crop
    )


@pytest.mark.parametrize(
    "call",
    [
        {"do_resize": False}, {"do_rescale": False}, {"do_normalize": False}, {"resample": 0},
        {"resample": 1}, {"resample": 2}, {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]}, {"size": {"height": 33, "width": 61}},
        {"size": {"shortest_edge": 40}}, {"size": {"shortest_edge": 60, "longest_edge": 70}},
        {"size": {"shortest_edge": 51, "longest_edge": 70}}, {"size": {"max_height": 40, "max_width": 90}},
        {"size": 40}, {"size": 40, "default_to_square": True}, {"do_center_crop": False},
        {"do_sample_frames": True, "num_frames": 3}, {"num_frames": 3},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(("ours", "reference"), VIDEOS)
def test_clip_settings_equal_the_reference(ours, reference, call):
    compare(ours(), reference(), noise(5, 50, 70, 3), **call)


@pytest.mark.parametrize(
    "kind", ["torch first", "numpy first", "pillow", "arrays", "two", "unit", "grey", "one"]
)
@pytest.mark.parametrize(("ours", "reference"), VIDEOS)
def test_clip_layouts_equal_the_reference(ours, reference, kind):
    clip = noise(3, 50, 70, 3)
    media = {
        "torch first": torch.from_numpy(clip.transpose(0, 3, 1, 2).copy()),
        "numpy first": clip.transpose(0, 3, 1, 2),
        "pillow": [Image.fromarray(frame) for frame in clip],
        "arrays": list(clip),
        "two": [clip, noise(3, 80, 33, 3)],
        "unit": clip.astype(np.float32) / 255,
        "grey": clip[..., :1],
        "one": Image.fromarray(clip[0]),
    }[kind]
    compare(ours(), reference(), media)


@pytest.mark.parametrize(("ours", "reference"), VIDEOS)
def test_transparent_clips_are_blended_on_white_as_in_the_reference(ours, reference):
    clip = torch.from_numpy(noise(2, 4, 50, 70))
    compare(ours(), reference(), clip)


def test_frames_as_pictures_equal_the_reference():
    clips = [noise(2, 50, 70, 3), noise(2, 33, 20, 3, seed=1)]
    with pytest.warns(DeprecationWarning, match="InstructBlipVideoVideoProcessor"):
        ours = InstructBlipVideoImageProcessor()(clips, return_tensors="pt")
    assert torch.equal(ours["pixel_values"], RefFrames()(clips, return_tensors="pt")["pixel_values"])
    with pytest.warns(DeprecationWarning, match="VideoLlavaVideoProcessor"):
        ours = VideoLlavaImageProcessor()(images=None, videos=clips, return_tensors="pt")
    reference = RefPictures()(images=None, videos=clips, return_tensors="pt")
    assert torch.equal(ours["pixel_values_videos"], reference["pixel_values_videos"])


def test_resize_equals_the_reference():
    for picture in (noise(50, 70, 3), noise(3, 50, 70), noise(50, 70, 3).astype(np.float32) / 255):
        for size in ({"shortest_edge": 33}, {"height": 20, "width": 90}):
            a, b = (p.resize(picture, size) for p in (VideoLlavaImageProcessor(), RefPictures()))
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)


@pytest.mark.parametrize(
    ("total", "count"),
    [(8, 1), (8, 4), (8, 7), (8, 8), (17, 7), (30, 22), (30, 26), (45, 33), (97, 8), (97, 26)],
)
def test_sampled_frames_equal_the_reference(total, count):
    clip = np.zeros((total, 4, 4, 3), np.uint8) + np.arange(total, dtype=np.uint8)[:, None, None, None]
    call = {"do_sample_frames": True, "num_frames": count, "do_resize": False, "do_normalize": False,
            "do_rescale": False, "do_center_crop": False, "return_tensors": "pt"}  # fmt: skip
    ours = VideoLlavaVideoProcessor()(clip, **call)["pixel_values_videos"][0, :, 0, 0, 0]
    try:
        theirs = RefVideo()(clip, **call)["pixel_values_videos"][0, :, 0, 0, 0]
    except IndexError:  # one index too many there, beyond the clip
        theirs = torch.arange(0, total, total / count).int()[:count].to(torch.uint8)
    assert ours.tolist() == theirs[:count].tolist()


@pytest.mark.parametrize(
    ("ours", "reference"), [*IMAGES, *VIDEOS, (InstructBlipVideoImageProcessor, RefFrames)]
)
def test_settings_files_equal_the_reference_and_are_read_by_it(ours, reference, tmp_path):
    assert ours().to_json_string() == reference().to_json_string()
    ours(size={"height": 30, "width": 40}, do_normalize=False).save_pretrained(tmp_path / "ours")
    read = reference.from_pretrained(tmp_path / "ours")
    assert (read.size, read.do_normalize) == ({"height": 30, "width": 40}, False)
    read.save_pretrained(tmp_path / "theirs")
    assert ours.from_pretrained(tmp_path / "theirs").to_json_string() == read.to_json_string()
