"""Spellings of weight names, family by family. The published one needs no table: it is the attributes'."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from watchword.errors import RequestError
from watchword.nn.lora import adapter_names
from watchword.shapes import Tensor
from watchword.weights.names import SAME, Rename, Rules, respell


def moved(old: str, new: str, *tails: str) -> Rules:
    """Rules that give the names of these modules another beginning."""
    return tuple(Rename(f"{old}{tail}.{{rest}}", f"{new}{tail}.{{rest}}") for tail in tails)


NESTED = (
    *moved("model.", "", "image_tower", "video_tower", "multi_modal_projector"),
    Rename("model.language_model.{rest}", "language_model.model.{rest}"),
    Rename("lm_head.{rest}", "language_model.lm_head.{rest}"),
)
"""Video-LLaVA as newer reference classes hold it in memory."""

FLAT_TOWERS = (
    Rename("model.image_tower.{rest}", "image_tower.vision_model.{rest}"),
    Rename("model.video_tower.{rest}", "video_tower.vision_model.{rest}"),
    *NESTED[2:],
)
"""The same in transformers 5, whose towers have no inner level."""

FLAT_FILES = (
    Rename("image_tower.{rest}", "image_tower.vision_model.{rest}"),
    Rename("video_tower.{rest}", "video_tower.vision_model.{rest}"),
    *moved("", "", "multi_modal_projector", "language_model"),
)
"""Files that transformers 5 writes of a Video-LLaVA that it built itself: published but for the towers."""

PARTS = ("vision_model", "qformer", "language_projection")

HEADLESS = (
    Rename("query_tokens", "query_tokens"),
    *moved("", "", *PARTS),
    *moved("language_model.", "language_model.model.", "embed_tokens", "layers", "norm", "decoder"),
)
"""The base InstructBlipModel as the reference saves it: its causal text model has no `model.` level."""

COMPUTED = {
    "{rest}.rotary_emb.inv_freq": "computed, not learned",
    "{rest}.position_ids": "computed, not learned",
    "{rest}.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": "not used by T5",
}
"""What old files carry and no model reads."""

HEAD = dict.fromkeys(("lm_head.{rest}", "language_model.lm_head.{rest}"), "the head, which this class lacks")


def _outside(part: str) -> dict[str, str]:
    """All of a whole InstructBLIP folder but one part."""
    rest = ("query_tokens", *(f"{name}.{{rest}}" for name in (*PARTS, "language_model") if name != part))
    return dict.fromkeys(rest, f"outside {part}")


def of(model: nn.Module) -> dict[str, Any]:
    """How to load this model: `layouts`, `drop`, `tied`, `keep_in_fp32` for `weights.load.load_weights`."""
    kind = model.config.model_type
    if kind.endswith(("_vision_model", "_qformer")):
        part = "qformer" if kind.endswith("_qformer") else "vision_model"
        whole = (Rename(part + ".{rest}", "{rest}"),)
        return {"layouts": {"part alone": SAME, "whole folder": whole}, "drop": COMPUTED | _outside(part)}
    text = model.language_model
    found: dict[str, Any] = {
        "drop": COMPUTED if hasattr(text, "lm_head") else COMPUTED | HEAD,
        "tied": {f"language_model.{name}": f"language_model.{source}" for name, source in text.tied.items()},
    }
    if kind == "video_llava":
        found["layouts"] = {
            "published": SAME,
            "nested": NESTED,
            "nested, flat towers": FLAT_TOWERS,
            "flat towers": FLAT_FILES,
        }
    else:
        found["layouts"] = {"published": SAME} | ({} if _encodes(text) else {"headless": HEADLESS})
        found["keep_in_fp32"] = ("query_tokens", *getattr(text, "keep_in_fp32", ()))
    return found


def for_disk(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's state under the names that the reference's class of the same name reads.

    Raises:
        RequestError: the model has adapters, for which checkpoints have no place.
    """
    if found := adapter_names(model):
        raise RequestError(
            f"{type(model).__name__}: has the adapters {', '.join(found)}; save them with "
            "weights.adapters.save_adapter, or add one to the weights with fold_adapter first"
        )
    instruct = model.config.model_type in ("instructblip", "instructblipvideo")
    if instruct and not hasattr(model.language_model, "lm_head") and not _encodes(model.language_model):
        return respell(state, HEADLESS)
    return dict(state)


def for_adapters(model: nn.Module) -> dict[str, Any]:
    """`spellings` and `made_for`, as `weights.adapters.Family` takes them.

    PEFT calls modules by the attributes of the reference's classes. In transformers 4.52 and later these are
    not those of the published files for Video-LLaVA; older adapters have the published ones.
    """
    kind = model.config.model_type
    spellings = {"published": SAME}
    if kind == "video_llava":
        spellings = {"nested": NESTED, "nested, flat towers": FLAT_TOWERS, "published": SAME}
    return {
        "spellings": spellings,
        "made_for": (CLASSES[kind], f"transformers.models.{kind}.modeling_{kind}"),
    }


CLASSES = {
    "instructblip": "InstructBlipForConditionalGeneration",
    "instructblipvideo": "InstructBlipVideoForConditionalGeneration",
    "video_llava": "VideoLlavaForConditionalGeneration",
}
"""model_type → the reference's class."""


def _encodes(text: nn.Module) -> bool:
    """An encoder-decoder, which has no `model.` level in any spelling."""
    return text.cache_spec.cross
