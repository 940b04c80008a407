"""Configs of the language models: LLaMA, Mistral, OPT and T5."""

from collections.abc import Mapping
from typing import Any, ClassVar

from watchword.config.fields import Config, Real, alias
from watchword.errors import ConfigError

# rope_type -> fields that its frequencies are computed from
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


class _Rotary(Config):
    """What LLaMA and Mistral share: rotary positions in both spellings, a head width that may be derived."""

    section: ClassVar[str] = "text_config"
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "partial_rotary_factor": (1.0, None),
        "is_encoder_decoder": (False,),
    }

    hidden_size: int
    num_attention_heads: int
    rope_theta: Real
    rope_scaling: dict[str, Any] | None

    @property
    def head_dim(self) -> int:
        """Width of one attention head: as given, or `hidden_size // num_attention_heads`."""
        return self._head_dim or self.hidden_size // self.num_attention_heads

    @head_dim.setter
    def head_dim(self, value: int | None) -> None:
        self._head_dim = value

    def _set_rope(
        self, theta: Real, scaling: Mapping[str, Any] | None, parameters: Mapping[str, Any] | None
    ) -> None:
        """Take `rope_theta` and `rope_scaling`, or the newer `rope_parameters` that holds both."""
        if parameters is not None:
            theta = parameters.get("rope_theta", theta)
            rest = {key: value for key, value in parameters.items() if key != "rope_theta"}
            scaling = None if rest.get("rope_type", "default") == "default" else rest
        self.rope_theta = theta
        self.rope_scaling = None if scaling is None else dict(scaling)
        if self.rope_scaling is None:
            return
        kind = self.rope_scaling.get("type", self.rope_scaling.get("rope_type"))
        if kind not in ROPE_TYPES:
            raise ConfigError(
                f"{type(self).__name__}: rope_scaling has type {kind!r}, which is not implemented; "
                f"expected one of {', '.join(ROPE_TYPES)}"
            )
        missing = [name for name in ROPE_TYPES[kind] if name not in self.rope_scaling]
        if missing:
            raise ConfigError(
                f"{type(self).__name__}: rope_scaling of type {kind!r} lacks {', '.join(missing)}; "
                f"found {sorted(self.rope_scaling)}"
            )
        self.rope_scaling["rope_type"] = kind

    def to_dict(self) -> dict[str, Any]:
        """The document to save; `rope_parameters` gives way to the older spelling if its values changed."""
        written = super().to_dict()
        if "rope_parameters" in written and ("rope_theta" in written or "rope_scaling" in written):
            del written["rope_parameters"]
            written |= {"rope_theta": self.rope_theta, "rope_scaling": self.rope_scaling}
        return written


class LlamaConfig(_Rotary):
    """LLaMA and Vicuna."""

    model_type = "llama"

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 4096,
        intermediate_size: int = 11008,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = None,
        hidden_act: str = "silu",
        max_position_embeddings: int = 2048,
        initializer_range: Real = 0.02,
        rms_norm_eps: Real = 1e-6,
        use_cache: bool = True,
        pad_token_id: int | None = None,
        bos_token_id: int | None = 1,
        eos_token_id: int | list[int] | None = 2,
        pretraining_tp: int = 1,
        tie_word_embeddings: bool = False,
        rope_theta: Real = 10000.0,
        rope_scaling: dict[str, Any] | None = None,
        attention_bias: bool = False,
        attention_dropout: Real = 0.0,
        mlp_bias: bool = False,
        head_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.pretraining_tp = pretraining_tp  # a record of training; the reference computes nothing from it
        self.attention_bias = attention_bias
        self.attention_dropout = attention_dropout
        self.mlp_bias = mlp_bias
        self.head_dim = head_dim
        self._set_rope(rope_theta, rope_scaling, kwargs.pop("rope_parameters", None))
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )


class MistralConfig(_Rotary):
    """Mistral: LLaMA without biases and with a sliding window (None for none)."""

    model_type = "mistral"
    extras = ("rope_scaling",)

    def __init__(
        self,
        vocab_size: int = 32000,
        hidden_size: int = 4096,
        intermediate_size: int = 14336,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 32,
        num_key_value_heads: int | None = 8,
        head_dim: int | None = None,
        hidden_act: str = "silu",
        max_position_embeddings: int = 131072,
        initializer_range: Real = 0.02,
        rms_norm_eps: Real = 1e-6,
        use_cache: bool = True,
        pad_token_id: int | None = None,
        bos_token_id: int | None = 1,
        eos_token_id: int | list[int] | None = 2,
        tie_word_embeddings: bool = False,
        rope_theta: Real = 10000.0,
        sliding_window: int | None = 4096,
        attention_dropout: Real = 0.0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads if num_key_value_heads is None else num_key_value_heads
        self.head_dim = head_dim
        self.hidden_act = hidden_act
        self.max_position_embeddings = max_position_embeddings
        self.initializer_range = initializer_range
        self.rms_norm_eps = rms_norm_eps
        self.use_cache = use_cache
        self.sliding_window = sliding_window
        self.attention_dropout = attention_dropout
        self._set_rope(rope_theta, kwargs.pop("rope_scaling", None), kwargs.pop("rope_parameters", None))
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )


class OPTConfig(Config):
    """OPT, the language model of InstructBLIP when none is named."""

    model_type = "opt"
    section = "text_config"
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"is_encoder_decoder": (False,)}

    def __init__(
        self,
        vocab_size: int = 50272,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        ffn_dim: int = 3072,
        max_position_embeddings: int = 2048,
        do_layer_norm_before: bool = True,
        _remove_final_layer_norm: bool = False,
        word_embed_proj_dim: int | None = None,
        dropout: Real = 0.1,
        attention_dropout: Real = 0.0,
        num_attention_heads: int = 12,
        activation_function: str = "relu",
        layerdrop: Real = 0.0,
        init_std: Real = 0.02,
        use_cache: bool = True,
        pad_token_id: int | None = 1,
        bos_token_id: int | None = 2,
        eos_token_id: int | list[int] | None = 2,
        enable_bias: bool = True,
        layer_norm_elementwise_affine: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.ffn_dim = ffn_dim
        self.max_position_embeddings = max_position_embeddings
        self.do_layer_norm_before = do_layer_norm_before
        self._remove_final_layer_norm = _remove_final_layer_norm
        self.word_embed_proj_dim = hidden_size if word_embed_proj_dim is None else word_embed_proj_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.num_attention_heads = num_attention_heads
        self.activation_function = activation_function
        self.layerdrop = layerdrop
        self.init_std = init_std
        self.use_cache = use_cache
        self.enable_bias = enable_bias
        self.layer_norm_elementwise_affine = layer_norm_elementwise_affine
        super().__init__(
            pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id, **kwargs
        )


class T5Config(Config):
    """T5 and Flan-T5, an encoder and a decoder."""

    model_type = "t5"
    section = "text_config"
    aliases: ClassVar[Mapping[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }
    extras = ("dense_act_fn", "is_gated_act")
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {"is_encoder_decoder": (True,)}

    hidden_size = alias("d_model")
    num_attention_heads = alias("num_heads")
    num_hidden_layers = alias("num_layers")
    head_dim = alias("d_kv")

    def __init__(
        self,
        vocab_size: int = 32128,
        d_model: int = 512,
        d_kv: int = 64,
        d_ff: int = 2048,
        num_layers: int = 6,
        num_decoder_layers: int | None = None,
        num_heads: int = 8,
        relative_attention_num_buckets: int = 32,
        relative_attention_max_distance: int = 128,
        dropout_rate: Real = 0.1,
        layer_norm_epsilon: Real = 1e-6,
        initializer_factor: Real = 1.0,
        feed_forward_proj: str = "relu",
        is_encoder_decoder: bool = True,
        use_cache: bool = True,
        pad_token_id: int | None = 0,
        eos_token_id: int | list[int] | None = 1,
        classifier_dropout: Real = 0.0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.d_model = d_model
        self.d_kv = d_kv
        self.d_ff = d_ff
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.relative_attention_num_buckets = relative_attention_num_buckets
        self.relative_attention_max_distance = relative_attention_max_distance
        self.dropout_rate = dropout_rate
        self.layer_norm_epsilon = layer_norm_epsilon
        self.initializer_factor = initializer_factor
        self.feed_forward_proj = feed_forward_proj
        self.use_cache = use_cache
        self.classifier_dropout = classifier_dropout
        self._set_activation(kwargs.pop("dense_act_fn", None), kwargs.pop("is_gated_act", None))
        self._scale_decoder_outputs: bool | None = kwargs.pop("scale_decoder_outputs", None)
        super().__init__(
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            is_encoder_decoder=is_encoder_decoder,
            **kwargs,
        )
        self.num_decoder_layers = self.num_layers if num_decoder_layers is None else num_decoder_layers

    def _set_activation(self, dense_act_fn: str | None, is_gated_act: bool | None) -> None:
        """Take `feed_forward_proj` apart; what the file states itself wins over what follows from it."""
        gate, _, name = self.feed_forward_proj.rpartition("-")
        if gate not in ("", "gated") or not name:
            raise ConfigError(
                f"T5Config: feed_forward_proj is {self.feed_forward_proj!r}, expected an "
                "activation such as 'relu', or one with a gate such as 'gated-gelu'"
            )
        # The reference takes exactly "gated-gelu" for the tanh form; InstructBLIP files state "gelu".
        follows = "gelu_new" if self.feed_forward_proj == "gated-gelu" else name
        self.dense_act_fn = follows if dense_act_fn is None else dense_act_fn
        self.is_gated_act = gate == "gated" if is_gated_act is None else is_gated_act

    @property
    def scale_decoder_outputs(self) -> bool:
        """Whether the decoder's output is scaled by `d_model ** -0.5` before the head.

        Newer files state it; in older ones it follows from `tie_word_embeddings`.
        """
        if self._scale_decoder_outputs is not None:
            return self._scale_decoder_outputs
        return self.tie_word_embeddings is not False

    @scale_decoder_outputs.setter
    def scale_decoder_outputs(self, value: bool | None) -> None:
        self._scale_decoder_outputs = value

    def _fields(self) -> dict[str, Any]:
        stated = self._scale_decoder_outputs
        return super()._fields() | ({} if stated is None else {"scale_decoder_outputs": stated})


TEXT_CONFIGS: dict[str, type[Config]] = {
    one.model_type: one for one in (LlamaConfig, MistralConfig, OPTConfig, T5Config)
}
