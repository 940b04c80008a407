"""Image processors: settings, files, and inputs beyond what parity covers."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.media import clips
from watchword import BlipImageProcessor, InstructBlipVideoImageProcessor, VideoLlavaImageProcessor
from watchword.errors import CheckpointError, ConfigError, MediaError, RequestError, UnknownArgument

CLASSES = [BlipImageProcessor, VideoLlavaImageProcessor, InstructBlipVideoImageProcessor]
PICTURE = clips.picture(3, 20, 30)


@pytest.mark.parametrize("processor", CLASSES)
def test_unknown_arguments_are_refused_with_the_nearest_known(processor, tmp_path):
    processor().save_pretrained(tmp_path)
    name = processor.__name__
    for call in (
        lambda: processor(do_resise=True),
        lambda: processor.from_pretrained(tmp_path, do_resise=True),
        lambda: processor.from_dict({}, do_resise=True),
    ):
        with pytest.raises(
            UnknownArgument, match=f"{name}: unknown argument 'do_resise'; did you mean 'do_resize'"
        ):
            call()
    for call in (processor(), processor().preprocess):
        with pytest.raises(
            UnknownArgument,
            match=rf"{name}.preprocess: unknown argument 'return_tensor'; did you mean 'return_tensors'",
        ):
            call(PICTURE, return_tensor="pt")


@pytest.mark.parametrize("processor", CLASSES)
def test_settings_survive_saving_with_unknown_fields(processor, tmp_path):
    written = {
        **processor(do_rescale=False).to_dict(),
        "future": {"a": 1},
        "processor_class": "SomeProcessor",
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
    read = processor.from_pretrained(tmp_path)
    assert read.do_rescale is False
    assert read.to_dict() == written
    assert read.save_pretrained(tmp_path / "copy") == [str(tmp_path / "copy" / "preprocessor_config.json")]
    assert json.loads((tmp_path / "copy" / "preprocessor_config.json").read_text()) == written
    assert processor.from_pretrained(tmp_path / "copy" / "preprocessor_config.json").to_dict() == written
    assert "future" in repr(read)


def test_file_settings_are_overridden_and_leftovers_returned_on_request(tmp_path):
    BlipImageProcessor(size=30).save_pretrained(tmp_path)
    read = BlipImageProcessor.from_pretrained(tmp_path, size={"height": 5, "width": 6}, do_normalize=False)
    assert (read.size, read.do_normalize) == ({"height": 5, "width": 6}, False)
    read, unused = BlipImageProcessor.from_pretrained(
        tmp_path, do_rescale=False, foo=1, return_unused_kwargs=True
    )
    assert (read.do_rescale, unused) == (False, {"foo": 1})


def test_nested_settings_of_newer_folders_are_read(tmp_path):
    nested = {"image_processor": {"size": {"height": 7, "width": 8}}, "num_query_tokens": 32}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert BlipImageProcessor.from_pretrained(tmp_path).size == {"height": 7, "width": 8}


def test_unreadable_folders_are_told(tmp_path):
    with pytest.raises(
        CheckpointError, match="no settings of the image processor in it; expected one of preproc"
    ):
        BlipImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text('{"num_query_tokens": 32}')
    with pytest.raises(CheckpointError, match="no settings of the image processor"):
        BlipImageProcessor.from_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text("{")
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: no valid JSON"):
        BlipImageProcessor.from_pretrained(tmp_path)
    file.write_text("[]")
    with pytest.raises(
        CheckpointError, match=r"preprocessor_config.json: holds list, where settings by name"
    ):
        BlipImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"preprocessor_config.json: a file, where a folder was expected"
    ):
        BlipImageProcessor().save_pretrained(file)


def test_attributes_can_be_changed_afterwards():
    processor = BlipImageProcessor()
    processor.size = {"height": 5, "width": 6}
    assert processor(PICTURE, return_tensors="pt").pixel_values.shape == (1, 3, 5, 6)


def test_paths_and_mixed_nested_lists_are_taken(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    processor = BlipImageProcessor(size=8)
    single = processor(PICTURE, return_tensors="pt").pixel_values
    many = processor(
        [[str(path), Image.fromarray(PICTURE)], [path, path.read_bytes()]], return_tensors="pt"
    ).pixel_values
    assert torch.equal(many, single.expand(4, -1, -1, -1))
    with pytest.raises(MediaError, match=r"absent.png: no such file"):
        processor("absent.png")


def test_pillow_pictures_of_three_rows_are_not_taken_for_colours_first():
    thin = clips.picture(0, 3, 40)
    spec = {"return_tensors": "pt", "size": {"height": 3, "width": 40}}
    processor = BlipImageProcessor(do_normalize=False, do_rescale=False)
    given = processor(Image.fromarray(thin), **spec).pixel_values
    assert torch.equal(given[0].permute(1, 2, 0), torch.from_numpy(thin))


def test_without_return_tensors_there_are_arrays():
    rows = VideoLlavaImageProcessor()([PICTURE, PICTURE]).pixel_values_images
    assert [type(row) for row in rows] == [np.ndarray] * 2
    assert VideoLlavaImageProcessor()(PICTURE, return_tensors="np").pixel_values_images.shape == (
        1,
        3,
        224,
        224,
    )


def test_data_format_none_leaves_colours_where_they_were():
    processor = BlipImageProcessor(size=8)
    assert processor(PICTURE, data_format=None)["pixel_values"][0].shape == (8, 8, 3)
    assert processor(PICTURE.transpose(2, 0, 1), data_format=None)["pixel_values"][0].shape == (3, 8, 8)
    with pytest.raises(
        RequestError, match="data_format: 'first', expected 'channels_first' or 'channels_last'"
    ):
        processor(PICTURE, data_format="first")


def test_clips_of_different_lengths_give_a_tensor_each():
    short, long = np.stack([PICTURE] * 2), np.stack([PICTURE] * 3)
    with pytest.warns(DeprecationWarning, match="VideoLlavaVideoProcessor"):
        rows = VideoLlavaImageProcessor()(videos=[short, long], return_tensors="pt").pixel_values_videos
    assert [tuple(row.shape) for row in rows] == [(2, 3, 224, 224), (3, 3, 224, 224)]
    with pytest.warns(DeprecationWarning, match="InstructBlipVideoVideoProcessor"):
        rows = InstructBlipVideoImageProcessor(size=8)([short, long])["pixel_values"]
    assert [len(row) for row in rows] == [2, 3]
    assert rows[0][0].shape == (3, 8, 8)


def test_inputs_that_are_no_pictures_are_refused():
    processor = BlipImageProcessor()
    for images, message in (
        (5, "images: int is not a picture"),
        ([], "images: an empty list is not a picture"),
        (np.zeros((4, 4)), "images: an array of 2 axes is not a picture"),
    ):
        with pytest.raises(RequestError, match=message):
            processor(images)
    with pytest.raises(RequestError, match="neither images nor videos were given"):
        VideoLlavaImageProcessor()(None)
    with pytest.raises(
        RequestError, match=r"images of sizes \[\(3, 20, 30\), \(3, 21, 30\)\] cannot be one tensor"
    ):
        processor([PICTURE, clips.picture(0, 21, 30)], do_resize=False, return_tensors="pt")
    with pytest.raises(
        ConfigError, match=r"size: \{'shortest_edge': 9\}, where height and width were expected"
    ):
        processor(PICTURE, size={"shortest_edge": 9})
    with pytest.raises(UnknownArgument, match=r"VideoLlavaImageProcessor.resize: unknown argument 'gap'"):
        VideoLlavaImageProcessor().resize(PICTURE, {"shortest_edge": 9}, gap=2)
