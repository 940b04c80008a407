"""Configs of the vision towers and of the Q-Former."""

from typing import Any

from watchword.config.fields import Config, Real
from watchword.errors import ConfigError

POSITION_EMBEDDINGS = ("absolute", "relative_key", "relative_key_query")


class CLIPVisionConfig(Config):
    """CLIP ViT, both towers of Video-LLaVA."""

    model_type = "clip_vision_model"
    section = "vision_config"

    def __init__(
        self,
        hidden_size: int = 768,
        intermediate_size: int = 3072,
        projection_dim: int = 512,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        num_channels: int = 3,
        image_size: int = 224,
        patch_size: int = 32,
        hidden_act: str = "quick_gelu",
        layer_norm_eps: Real = 1e-5,
        attention_dropout: Real = 0.0,
        initializer_range: Real = 0.02,
        initializer_factor: Real = 1.0,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.projection_dim = projection_dim
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_channels = num_channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.initializer_factor = initializer_factor
        super().__init__(**kwargs)


class InstructBlipVisionConfig(Config):
    """EVA-CLIP ViT-g, the vision tower of InstructBLIP."""

    model_type = "instructblip_vision_model"
    kin = frozenset({"instructblipvideo_vision_model", "blip_2_vision_model"})
    section = "vision_config"

    def __init__(
        self,
        hidden_size: int = 1408,
        intermediate_size: int = 6144,
        num_hidden_layers: int = 39,
        num_attention_heads: int = 16,
        image_size: int = 224,
        patch_size: int = 14,
        hidden_act: str = "gelu",
        layer_norm_eps: Real = 1e-6,
        attention_dropout: Real = 0.0,
        initializer_range: Real = 1e-10,
        qkv_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.attention_dropout = attention_dropout
        self.initializer_range = initializer_range
        self.qkv_bias = qkv_bias
        super().__init__(**kwargs)


class InstructBlipQFormerConfig(Config):
    """The Q-Former: BERT with query tokens that look at the picture."""

    model_type = "instructblip_qformer"
    kin = frozenset({"instructblipvideo_qformer"})
    section = "qformer_config"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: Real = 0.1,
        attention_probs_dropout_prob: Real = 0.1,
        max_position_embeddings: int = 512,
        initializer_range: Real = 0.02,
        layer_norm_eps: Real = 1e-12,
        pad_token_id: int | None = 0,
        position_embedding_type: str = "absolute",
        cross_attention_frequency: int = 2,
        encoder_hidden_size: int = 1408,
        **kwargs: Any,
    ) -> None:
        if position_embedding_type not in POSITION_EMBEDDINGS:
            raise ConfigError(
                f"{type(self).__name__}: position_embedding_type is {position_embedding_type!r}, "
                f"expected one of {', '.join(POSITION_EMBEDDINGS)}"
            )
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.position_embedding_type = position_embedding_type
        self.cross_attention_frequency = cross_attention_frequency
        self.encoder_hidden_size = encoder_hidden_size
        super().__init__(pad_token_id=pad_token_id, **kwargs)


class InstructBlipVideoVisionConfig(InstructBlipVisionConfig):
    """The same tower under the name that InstructBlipVideo gives it."""

    model_type = "instructblipvideo_vision_model"
    kin = frozenset({"instructblip_vision_model", "blip_2_vision_model"})


class InstructBlipVideoQFormerConfig(InstructBlipQFormerConfig):
    """The same Q-Former under the name that InstructBlipVideo gives it."""

    model_type = "instructblipvideo_qformer"
    kin = frozenset({"instructblip_qformer"})
