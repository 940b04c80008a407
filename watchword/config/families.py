"""Configs of the families, and what follows from them by arithmetic: how many visual tokens a medium has."""

import copy
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from watchword.config.fields import Config, alias
from watchword.config.text import TEXT_CONFIGS, LlamaConfig, MistralConfig
from watchword.config.vision import (
    CLIPVisionConfig,
    InstructBlipQFormerConfig,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    InstructBlipVisionConfig,
)
from watchword.errors import ConfigError

logger = logging.getLogger(__name__)

IGNORE_INDEX = -100

F = TypeVar("F", bound="_BlipFamily")

Given = Any  # a config, a dictionary of its fields, or None; checked in _part, because people pass anything


def _part(where: str, given: Given, classes: Mapping[str, type[Config]], default: str) -> Any:
    """A sub-config from whatever was given for it; a dictionary without a model type is the default one."""
    if isinstance(given, Config):
        if not isinstance(given, tuple(classes.values())):
            raise ConfigError(f"{where} is a {type(given).__name__}, expected one of {_names(classes)}")
        return given
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(
            f"{where} is a {type(given).__name__}, expected a config, a dictionary of its fields or None"
        )
    fields = copy.deepcopy(dict(given or {}))
    kind = fields.get("model_type") or default
    known = {name: cls for cls in classes.values() for name in (cls.model_type, *cls.kin)} | dict(classes)
    if kind not in known:
        raise ConfigError(
            f"{where} has model_type {kind!r}, which is not known here; known: {', '.join(classes)}"
        )
    if "model_type" not in fields:
        logger.info("%s names no model_type: read as %s", where, kind)
    return known[kind](**fields)


def _names(classes: Mapping[str, type[Config]]) -> str:
    return ", ".join(cls.__name__ for cls in classes.values())


class _BlipFamily(Config):
    """What InstructBLIP and InstructBlipVideo share: a tower, a Q-Former and a language model."""

    parts = ("vision_config", "qformer_config", "text_config")
    handled = ("quantization_config",)
    extras = ("use_decoder_only_language_model", "initializer_factor", "initializer_range")
    vision_class: ClassVar[type[InstructBlipVisionConfig]]
    qformer_class: ClassVar[type[InstructBlipQFormerConfig]]

    num_query_tokens: int

    def _set_parts(self, vision: Given, qformer: Given, text: Given, fields: dict[str, Any]) -> None:
        """Copies of what was given: the Q-Former's below is corrected, and the caller's must not change."""
        self._check_type(fields.pop("model_type", None))
        name = type(self).__name__
        vision_types = {self.vision_class.model_type: self.vision_class}
        qformer_types = {self.qformer_class.model_type: self.qformer_class}
        self.vision_config: InstructBlipVisionConfig = copy.deepcopy(
            _part(f"{name}: vision_config", vision, vision_types, self.vision_class.model_type)
        )
        self.qformer_config: InstructBlipQFormerConfig = copy.deepcopy(
            _part(f"{name}: qformer_config", qformer, qformer_types, self.qformer_class.model_type)
        )
        self.text_config: Any = copy.deepcopy(_part(f"{name}: text_config", text, TEXT_CONFIGS, "opt"))
        # The reference always takes the width of the Q-Former's cross-attention from the tower.
        self.qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        fields.pop("use_decoder_only_language_model", None)  # follows from the language model
        self.use_decoder_only_language_model: bool = not self.text_config.is_encoder_decoder
        self.initializer_factor = fields.pop("initializer_factor", 1.0)
        self.initializer_range = fields.pop("initializer_range", 0.02)

    @classmethod
    def from_vision_qformer_text_configs(
        cls: type[F], vision_config: Given, qformer_config: Given, text_config: Given, **kwargs: Any
    ) -> F:
        """Build a family from the configs of its parts."""
        return cls(
            vision_config=vision_config, qformer_config=qformer_config, text_config=text_config, **kwargs
        )

    @classmethod
    def from_text_vision_configs(
        cls: type[F], vision_config: Given, qformer_config: Given, text_config: Given, **kwargs: Any
    ) -> F:
        """The same under the name that the documents' examples use, with the arguments in their order."""
        return cls.from_vision_qformer_text_configs(vision_config, qformer_config, text_config, **kwargs)

    def visual_tokens(
        self, frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> int:
        """Placeholders of one medium: the queries, once for a picture (`frames` None) or per frame.

        The Q-Former makes the count independent of `height` and `width`.
        """
        return self.num_query_tokens * (1 if frames is None else frames)


class InstructBlipConfig(_BlipFamily):
    """InstructBLIP: answers questions about a picture."""

    model_type = "instructblip"
    placeholder: ClassVar[str] = "image_token_index"
    """The field that counts; published folders carry both, for they serve both families."""
    kin = frozenset({"instructblipvideo"})
    aliases: ClassVar[Mapping[str, str]] = {"image_token_id": "image_token_index"}
    vision_class = InstructBlipVisionConfig
    qformer_class = InstructBlipQFormerConfig

    image_token_id = alias("image_token_index")

    def __init__(
        self,
        vision_config: Given = None,
        qformer_config: Given = None,
        text_config: Given = None,
        num_query_tokens: int = 32,
        image_token_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._set_parts(vision_config, qformer_config, text_config, kwargs)
        self.num_query_tokens = num_query_tokens
        self.image_token_index = image_token_index
        super().__init__(**kwargs)


class InstructBlipVideoConfig(_BlipFamily):
    """InstructBlipVideo: the same model, asked about several frames."""

    model_type = "instructblipvideo"
    placeholder: ClassVar[str] = "video_token_index"
    kin = frozenset({"instructblip"})
    aliases: ClassVar[Mapping[str, str]] = {"video_token_id": "video_token_index"}
    vision_class = InstructBlipVideoVisionConfig
    qformer_class = InstructBlipVideoQFormerConfig

    video_token_id = alias("video_token_index")

    def __init__(
        self,
        vision_config: Given = None,
        qformer_config: Given = None,
        text_config: Given = None,
        num_query_tokens: int = 32,
        video_token_index: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._set_parts(vision_config, qformer_config, text_config, kwargs)
        self.num_query_tokens = num_query_tokens
        self.video_token_index = video_token_index
        super().__init__(**kwargs)


class VideoLlavaConfig(Config):
    """Video-LLaVA: two CLIP towers, one projector, one LLaMA or Mistral."""

    model_type = "video_llava"
    parts = ("vision_config", "text_config")
    handled = ("quantization_config",)
    aliases: ClassVar[Mapping[str, str]] = {
        "image_token_id": "image_token_index",
        "video_token_id": "video_token_index",
    }
    extras = ("ignore_index",)

    image_token_id = alias("image_token_index")
    video_token_id = alias("video_token_index")

    def __init__(
        self,
        vision_config: Given = None,
        text_config: Given = None,
        image_token_index: int = 32000,
        video_token_index: int = 32001,
        projector_hidden_act: str = "gelu",
        vision_feature_select_strategy: str = "default",
        vision_feature_layer: int | list[int] = -2,
        image_seq_length: int = 256,
        video_seq_length: int = 2056,
        multimodal_projector_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        self._check_type(kwargs.pop("model_type", None))
        if vision_config is None:  # the published towers, not the class's own defaults
            vision_config = CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                projection_dim=768,
                num_hidden_layers=24,
                num_attention_heads=16,
                patch_size=14,
                vocab_size=32000,
            )
        name = type(self).__name__
        towers = {CLIPVisionConfig.model_type: CLIPVisionConfig}
        texts = {"llama": LlamaConfig, "mistral": MistralConfig}
        self.vision_config: CLIPVisionConfig = _part(
            f"{name}: vision_config", vision_config, towers, "clip_vision_model"
        )
        self.text_config: Any = _part(f"{name}: text_config", text_config, texts, "llama")
        self.image_token_index = image_token_index
        self.video_token_index = video_token_index
        self.projector_hidden_act = projector_hidden_act
        self.vision_feature_select_strategy = vision_feature_select_strategy
        self.vision_feature_layer = vision_feature_layer
        self.image_seq_length = image_seq_length
        self.video_seq_length = video_seq_length
        self.multimodal_projector_bias = multimodal_projector_bias
        # The label that the loss leaves out; older documents list it, files of today do not carry it.
        self.ignore_index: int = kwargs.pop("ignore_index", IGNORE_INDEX)
        super().__init__(**kwargs)

    def _worth_writing(self, values: Mapping[str, Any]) -> dict[str, Any]:
        kept = super()._worth_writing(values)
        if kept["ignore_index"] == IGNORE_INDEX:
            del kept["ignore_index"]
        return kept

    def visual_tokens(
        self, frames: int | None = None, height: int | None = None, width: int | None = None
    ) -> int:
        """Placeholders of one medium in the prompt: its patches, and the class tokens that are kept.

        A picture (`frames` None) loses its class token under the "default" strategy; frames keep theirs.
        `height` and `width` are those of the pixel tensor; None for the tower's own size.

        Source: get_image_features and get_video_features of the reference VideoLlavaModel.
        """
        size, patch = self.vision_config.image_size, self.vision_config.patch_size
        patches = ((height or size) // patch) * ((width or size) // patch)
        if frames is None:
            return patches if self.vision_feature_select_strategy == "default" else patches + 1
        return frames * (patches + 1)


FAMILY_CONFIGS: dict[str, type[Config]] = {
    one.model_type: one for one in (InstructBlipConfig, InstructBlipVideoConfig, VideoLlavaConfig)
}


def family_from_dict(raw: Mapping[str, Any], where: str = "config.json") -> Any:
    """The config of whatever family a parsed `config.json` describes."""
    kind = raw.get("model_type")
    if kind not in FAMILY_CONFIGS:
        raise ConfigError(
            f"{where}: model_type is {kind!r}, expected one of {', '.join(FAMILY_CONFIGS)}; "
            "other architectures are not implemented"
        )
    return FAMILY_CONFIGS[kind].from_dict(raw)
