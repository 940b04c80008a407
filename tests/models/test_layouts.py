import pytest
import torch

from tests import folders
from watchword import config as configs
from watchword.models import build, layouts
from watchword.models.instructblip import InstructBlip
from watchword.models.qformer import QFormer
from watchword.models.video_llava import VideoLlava
from watchword.weights import files
from watchword.weights.load import load_weights
from watchword.weights.names import SAME, respell, spell


def weights(folder) -> dict[str, torch.Tensor]:
    return {name: shard.read(name) for shard in files.open_weights(folder).shards() for name in shard.names}


def read(folder, cls, config, **options):
    """A model of that class with the folder's weights, and the report."""
    with torch.device("meta"):
        model = cls(config, **options)
    return model, load_weights(model, files.open_weights(folder), **layouts.of(model))


def holds(model, expected) -> bool:
    state = model.state_dict()
    return set(state) == set(expected) and all(torch.equal(state[name], t) for name, t in expected.items())


@pytest.mark.parametrize(
    ("layout", "table"),
    [("published", SAME), ("nested", layouts.NESTED), ("nested, flat towers", layouts.FLAT_TOWERS)],
)
def test_video_llava_is_read_in_every_spelling(tmp_path, layout, table):
    config = configs.VideoLlavaConfig.from_pretrained(folders.video_llava(tmp_path))
    state = weights(tmp_path)
    files.save(respell(state, table), tmp_path)
    assert set(spell(weights(tmp_path), table).sources) == set(state)
    model, report = read(tmp_path, VideoLlava, config)
    assert report.layout == layout
    assert holds(model, state)


def test_video_llava_without_head_leaves_the_head(tmp_path):
    config = configs.VideoLlavaConfig.from_pretrained(folders.video_llava(tmp_path))
    state = weights(tmp_path)
    model, report = read(tmp_path, VideoLlava, config, head=False)
    assert report.dropped == {"language_model.lm_head.weight": "the head, which this class lacks"}
    assert holds(model, {name: t for name, t in state.items() if "lm_head" not in name})
    assert set(layouts.for_disk(model, model.state_dict())) == set(model.state_dict())


@pytest.mark.parametrize("text", ["llama", "opt", "t5"])
def test_instructblip_without_head_is_saved_without_a_model_level_and_read_again(tmp_path, text):
    config = configs.InstructBlipConfig.from_pretrained(folders.instructblip(tmp_path / "whole", text=text))
    model, _ = read(tmp_path / "whole", InstructBlip, config, head=False)
    disk = layouts.for_disk(model, model.state_dict())
    assert not any(name.startswith("language_model.model.") for name in disk)
    files.save(disk, tmp_path / "base")
    again, report = read(tmp_path / "base", InstructBlip, config, head=False)
    assert report.layout == ("published" if text == "t5" else "headless")
    assert holds(again, model.state_dict())


def test_instructblip_keeps_queries_and_wo_in_float32(tmp_path):
    config = configs.InstructBlipConfig.from_pretrained(folders.instructblip(tmp_path, text="t5"))
    with torch.device("meta"):
        model = InstructBlip(config)
    load_weights(model, files.open_weights(tmp_path), dtype=torch.float16, **layouts.of(model))
    wide = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert wide == {n for n, _ in model.named_parameters() if n == "query_tokens" or n.endswith("wo.weight")}


def test_part_is_read_from_a_whole_folder_and_from_its_own(tmp_path):
    config = configs.InstructBlipConfig.from_pretrained(folders.instructblip(tmp_path / "whole"))
    model, report = read(tmp_path / "whole", QFormer, config.qformer_config)
    assert report.layout == "whole folder"
    assert set(report.dropped.values()) == {"outside qformer"}
    files.save(layouts.for_disk(model, model.state_dict()), tmp_path / "part")
    again, report = read(tmp_path / "part", QFormer, config.qformer_config)
    assert (report.layout, dict(report.dropped)) == ("part alone", {})
    assert holds(again, model.state_dict())


def test_every_family_states_how_it_is_read(tmp_path):
    for family in build.FAMILIES:
        config = configs.FAMILY_CONFIGS[family]()
        assert "published" in layouts.of(build.build(config))["layouts"]
