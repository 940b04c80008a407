"""Video processors: settings, files, sampling, and inputs beyond what parity covers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.media import clips
from watchword import InstructBlipVideoVideoProcessor, VideoLlavaVideoProcessor
from watchword.errors import CheckpointError, MediaError, RequestError, UnknownArgument
from watchword.media import read_frames

CLASSES = [InstructBlipVideoVideoProcessor, VideoLlavaVideoProcessor]
CLIP = np.stack([clips.picture(n, 20, 30) for n in range(6)])
RAW = {
    "do_resize": False,
    "do_center_crop": False,
    "do_rescale": False,
    "do_normalize": False,
    "return_tensors": "pt",
}


def raw(media, **call):
    """Frames as they were, without any pixel step."""
    return VideoLlavaVideoProcessor()(media, **{**RAW, **call})["pixel_values_videos"]


def as_raw(frames):
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("processor", CLASSES)
def test_unknown_arguments_are_refused_with_the_nearest_known(processor):
    with pytest.raises(UnknownArgument, match="unknown argument 'num_frame'; did you mean 'num_frames'"):
        processor(num_frame=8)
    with pytest.raises(
        UnknownArgument, match="preprocess: unknown argument 'num_frame'; did you mean 'num_frames'"
    ):
        processor()(CLIP, num_frame=8)
    for setting in ({"do_pad": True}, {"size_divisor": 14}):
        with pytest.raises(RequestError, match=f"{next(iter(setting))}=.* is not supported; leave it out"):
            processor(**setting)(CLIP)


def test_settings_are_read_from_the_first_file_that_has_them(tmp_path):
    def size():
        return VideoLlavaVideoProcessor.from_pretrained(tmp_path).size["shortest_edge"]

    nested = {"video_processor": {"size": {"shortest_edge": 3}}, "patch_size": 14}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert size() == 3
    older = {"size": {"shortest_edge": 2}, "image_processor_type": "VideoLlavaImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(older))
    assert size() == 2
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 1}}))
    assert size() == 1
    with pytest.raises(
        CheckpointError, match="no settings of the video processor in it; expected one of video_pre"
    ):
        VideoLlavaVideoProcessor.from_pretrained(tmp_path.parent)


@pytest.mark.parametrize("processor", CLASSES)
def test_settings_survive_saving_with_unknown_fields(processor, tmp_path):
    written = {
        **processor(num_frames=4, do_sample_frames=True).to_dict(),
        "future": [1],
        "processor_class": "Some",
    }
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(written))
    read = processor.from_pretrained(tmp_path)
    read.save_pretrained(tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "video_preprocessor_config.json").read_text()) == written


@pytest.mark.parametrize("codec", ["libx264"])
def test_paths_are_decoded_whole_or_sampled(tmp_path, codec):
    path = clips.write(tmp_path / "clip.mp4", codec, 17)
    every = clips.decoded(path)
    assert torch.equal(raw(str(path))[0], as_raw(np.stack(every)))
    sampled = VideoLlavaVideoProcessor()(
        [path, path.read_bytes()], do_sample_frames=True, num_frames=7, return_metadata=True, **RAW
    )
    indices = [0, 2, 4, 7, 9, 12, 14]
    assert torch.equal(sampled.pixel_values_videos[1], as_raw(np.stack([every[i] for i in indices])))
    about = sampled.video_metadata[0]
    assert (about.frames_indices, about.total_num_frames, about.fps) == (indices, 17, 24.0)
    assert (about.height, about.width, about.video_backend) == (48, 64, "pyav")
    assert raw(path, do_sample_frames=True, fps=12).shape[1] == 8
    assert torch.equal(raw(read_frames(path))[0], as_raw(read_frames(path).frames))
    with pytest.raises(MediaError, match=r"absent.mp4: no such file"):
        raw("absent.mp4")


def test_files_of_single_frames_are_a_clip_three_lists_deep(tmp_path):
    paths = []
    for number, frame in enumerate(CLIP[:3]):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(frame).save(paths[-1])
    assert torch.equal(raw([[paths]])[0], as_raw(CLIP[:3]))
    assert raw(paths).shape == (3, 1, 3, 20, 30)


def test_every_way_to_hand_in_clips_gives_the_same():
    pictures = [Image.fromarray(frame) for frame in CLIP]
    tensor = torch.from_numpy(CLIP)
    lists = (list(CLIP), list(tensor), pictures, tuple(pictures), [CLIP], [pictures], [[CLIP]])
    for media in (CLIP, tensor, tensor.permute(0, 3, 1, 2), CLIP[None], *lists):
        assert torch.equal(raw(media)[0], as_raw(CLIP))
    assert raw(np.stack([CLIP, CLIP])).shape == (2, 6, 3, 20, 30)
    assert torch.equal(raw(Image.fromarray(CLIP[0]))[0], as_raw(CLIP[:1]))
    assert torch.equal(raw(CLIP, data_format="channels_last")[0], torch.from_numpy(CLIP))
    assert raw(CLIP, device="cpu").device.type == "cpu"
    transparent = [Image.fromarray(frame).convert("RGBA") for frame in CLIP]
    assert torch.equal(raw(transparent)[0], as_raw(CLIP))


def test_clips_of_different_lengths_give_a_tensor_each():
    for tensors in ("pt", "np"):
        rows = InstructBlipVideoVideoProcessor(size=8)([CLIP, CLIP[:2]], return_tensors=tensors).pixel_values
        assert [tuple(row.shape) for row in rows] == [(6, 3, 8, 8), (2, 3, 8, 8)]
        assert {type(row) for row in rows} == {torch.Tensor if tensors == "pt" else np.ndarray}
    assert isinstance(InstructBlipVideoVideoProcessor(size=8)([CLIP, CLIP]).pixel_values, list)
    assert (
        InstructBlipVideoVideoProcessor(size=8)([CLIP, CLIP], return_tensors="np").pixel_values.shape[0] == 2
    )


def test_frames_are_sampled_only_when_asked():
    assert raw(CLIP, num_frames=2, fps=1).shape[1] == 6
    assert torch.equal(raw(CLIP, do_sample_frames=True, num_frames=2)[0], as_raw(CLIP[[0, 3]]))
    assert raw(CLIP, do_sample_frames=True).shape[1] == 6
    about = {"total_num_frames": 6, "fps": 3.0}
    assert torch.equal(
        raw(CLIP, do_sample_frames=True, fps=1.5, video_metadata=about)[0], as_raw(CLIP[[0, 2, 4]])
    )
    whole = {"total_num_frames": 600, "fps": 30.0, "frames_indices": [0, 100, 200, 300, 400, 500]}
    result = VideoLlavaVideoProcessor()(CLIP, video_metadata=[whole], return_metadata=True, **RAW)
    assert result.video_metadata[0].timestamps[1] == pytest.approx(100 / 30)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"num_frames": 2, "fps": 1}, "num_frames=2 and fps=1 exclude each other; give one"),
        ({"num_frames": 9}, "9 frames asked for, the clip has 6; ask for 1 to 6"),
        ({"num_frames": 0}, "0 frames asked for, the clip has 6"),
        ({"fps": 2}, "fps=2: the clip's own frame rate is unknown; give it in video_metadata, or num_frames"),
        (
            {"num_frames": 3, "video_metadata": {"total_num_frames": 60}},
            "total_num_frames is 60, the clip has 6 frames",
        ),
        (
            {"video_metadata": [{"total_num_frames": 6}] * 2},
            "video_metadata: 2 given for 1 clips; give one per clip",
        ),
        (
            {"video_metadata": {"total_frames": 6}},
            "video_metadata: unknown argument 'total_frames'; did you mean",
        ),
        ({"data_format": "last"}, "data_format: 'last', expected 'channels_first' or 'channels_last'"),
        ({"return_tensors": "jax"}, "return_tensors: 'jax', expected 'pt'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(call, message):
    with pytest.raises(RequestError, match=message):
        raw(CLIP, do_sample_frames=True, **call)


def test_inputs_that_are_no_clips_are_refused():
    for videos, message in ((5, "videos: int is not a clip"), ([], "videos: an empty list is not a clip"),
                            (np.zeros((4, 4)), "videos: an array of 2 axes is not a clip")):  # fmt: skip
        with pytest.raises(RequestError, match=message):
            raw(videos)
    with pytest.raises(MediaError, match=r"frame 1 has shape \(20, 31, 3\), the first has \(20, 30, 3\)"):
        raw([CLIP[0], clips.picture(0, 20, 31)])
    with pytest.raises(MediaError, match="values are NaN or infinite"):
        raw(np.full((2, 4, 4, 3), np.nan, np.float32))
