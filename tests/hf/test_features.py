"""What processors return."""

import copy
import pickle

import numpy as np
import pytest
import torch

from watchword.errors import RequestError
from watchword.hf.features import BatchFeature, VideoMetadata


def test_values_are_items_and_attributes():
    batch = BatchFeature({"pixel_values": torch.ones(2), "input_ids": [[1, 2]]})
    batch["attention_mask"] = 1
    assert batch.pixel_values is batch["pixel_values"]
    assert batch.attention_mask == 1
    assert list(batch) == ["pixel_values", "input_ids", "attention_mask"]
    assert {**batch}["input_ids"] == [[1, 2]]
    del batch["attention_mask"]
    assert not hasattr(batch, "attention_mask")
    assert batch.pop("input_ids") == [[1, 2]]
    with pytest.raises(AttributeError):
        batch.input_ids  # noqa: B018
    BatchFeature({"items": 3, "data": 4})["items"] == 3  # noqa: B015 - names of methods stay methods
    for same in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert torch.equal(same.pixel_values, batch.pixel_values)


def test_names_of_methods_stay_keys_only():
    batch = BatchFeature({"items": 3, "data": 4, "to": 5})
    assert (batch["items"], batch["data"], batch["to"]) == (3, 4, 5)
    assert dict(batch.items()) == {"items": 3, "data": 4, "to": 5}


def test_to_moves_everything_and_casts_floats_only():
    batch = BatchFeature({
        "pixels": torch.ones(2), "ids": torch.ones(2, dtype=torch.long),
        "rows": [torch.ones(1), torch.ones(2)], "text": "x",
    })  # fmt: skip
    assert batch.to(torch.float16) is batch
    assert (batch.pixels.dtype, batch.ids.dtype, batch.text) == (torch.float16, torch.int64, "x")
    assert [row.dtype for row in batch["rows"]] == [torch.float16] * 2
    batch.to("meta", torch.bfloat16)
    assert (batch.pixels.device.type, batch.ids.device.type, batch.pixels.dtype) == (
        "meta",
        "meta",
        torch.bfloat16,
    )
    assert (
        BatchFeature({"ids": torch.ones(1)}).to(device="meta", dtype=torch.float64).ids.dtype == torch.float64
    )
    with pytest.raises(RequestError, match=r"to: 2.5 is neither a device nor a dtype"):
        batch.to(2.5)


def test_lists_become_tensors_or_arrays():
    data = {"ids": [[1, 2], [3, 4]], "pixels": [np.ones((3, 2), np.float32)] * 2, "rows": [torch.ones(2)] * 2}
    batch = BatchFeature(data, tensor_type="pt")
    assert (batch.ids.dtype, batch.pixels.shape, batch.rows.shape) == (torch.int64, (2, 3, 2), (2, 2))
    batch = BatchFeature({**data, "ready": torch.ones(3)}, tensor_type="np")
    assert all(isinstance(value, np.ndarray) for value in batch.values())
    assert batch.rows.shape == (2, 2)


def test_ragged_rows_and_other_libraries_are_refused():
    with pytest.raises(
        RequestError, match=r"ids: rows of lengths \[1, 2\] cannot be one tensor; pass padding=True"
    ):
        BatchFeature({"ids": [[1], [1, 2]]}, tensor_type="pt")
    with pytest.raises(RequestError, match="return_tensors: 'tf', expected 'pt'"):
        BatchFeature({"ids": [1]}, tensor_type="tf")


def test_metadata_reads_as_mapping_and_knows_times():
    about = VideoMetadata(total_num_frames=60, fps=24.0, frames_indices=[0, 12])
    assert about["fps"] == about.fps == 24.0
    assert dict(about)["total_num_frames"] == 60
    assert about.timestamps == [0.0, 0.5]
    with pytest.raises(RequestError, match="timestamps: the clip's fps or frames_indices are unknown"):
        VideoMetadata(60).timestamps  # noqa: B018
