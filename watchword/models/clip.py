"""CLIP's vision transformer as Video-LLaVA uses it: hidden states of chosen layers, no pooled output."""

from collections.abc import Sequence

import torch
from torch import nn

from watchword.config import CLIPVisionConfig
from watchword.errors import RequestError
from watchword.nn.attention import attention
from watchword.nn.layers import check_heads, join_heads, split_heads
from watchword.nn.quantized import together
from watchword.nn.trace import Trace
from watchword.nn.vit import VitEncoder, check_frames, class_first, depth_of, patch_rows
from watchword.shapes import Float, Tensor


class ClipAttention(nn.Module):
    """Self-attention over all patches, softmax in float32."""

    def __init__(self, config: CLIPVisionConfig, *, backend: str) -> None:
        super().__init__()
        width = config.hidden_size
        check_heads(width, config.num_attention_heads, "vision_config")
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.dropout = config.attention_dropout
        self.backend = backend

    def forward(self, x: Float[Tensor, "B P D"], trace: Trace | None) -> Float[Tensor, "B P D"]:
        """Every row looks at every row of its picture."""
        parts = together(x, self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (split_heads(part, self.heads) for part in parts)
        out, weights = attention(
            q,
            k,
            v,
            dropout=self.dropout if self.training else 0.0,
            backend=self.backend,
            want_weights=trace is not None and trace.wants_weights,
        )
        if trace is not None:
            trace.weights(weights)
        return self.out_proj(join_heads(out))


class ClipEmbeddings(nn.Module):
    """Patches behind a class token, each with its place added. One picture size only."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.image_size = config.image_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(config.num_channels, width, patch, stride=patch, bias=False)
        self.position_embedding = nn.Embedding((config.image_size // patch) ** 2 + 1, width)

    def forward(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P D"]:
        """Class token and patches, placed."""
        check_frames(pixels, self.patch_embedding.in_channels)
        height, width = pixels.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            size = self.image_size
            raise RequestError(
                f"pixel_values: Input image size ({height}*{width}) doesn't match model ({size}*{size}); "
                f"resize to {size}*{size}, as this model's processor does"
            )
        rows = patch_rows(pixels, self.patch_embedding)
        return class_first(self.class_embedding, rows) + self.position_embedding.weight


class ClipTower(nn.Module):
    """What checkpoints keep under `vision_model.`"""

    def __init__(self, config: CLIPVisionConfig, *, backend: str) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(config)
        width, eps = config.hidden_size, config.layer_norm_eps
        self.pre_layrnorm = nn.LayerNorm(width, eps=eps)  # sic: the published name
        self.encoder = VitEncoder(
            config.num_hidden_layers,
            lambda: ClipAttention(config, backend=backend),
            width=width,
            inner=config.intermediate_size,
            act=config.hidden_act,
            eps=eps,
        )
        self.post_layernorm = nn.LayerNorm(width, eps=eps)  # kept for saving, never applied


class ClipVision(nn.Module):
    """CLIP's vision tower. Weights behind the chosen layer are kept for saving; they are not computed.

    Args:
        config: `CLIPVisionConfig`.
        backend: attention backend, a key of `nn.attention.BACKENDS`.
    """

    def __init__(self, config: CLIPVisionConfig, *, backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.vision_model = ClipTower(config, backend=backend)

    def features(
        self, pixels: Float[Tensor, "B C H W"], layer: int | Sequence[int], *, trace: Trace | None = None
    ) -> Float[Tensor, "B P D"]:
        """Hidden states of one layer, class token first; of several layers side by side in the last axis.

        Args:
            pixels: normalised, exactly image_size × image_size.
            layer: 0 is what enters the first layer, n what leaves the nth; negative ones count from the last.
            trace: collects the hidden states and attentions of the layers that run.

        Raises:
            RequestError: another picture size, or a layer that does not exist.

        Source: CLIPVisionTransformer.forward and the feature selection of VideoLlavaModel, in the reference.
        """
        tower = self.vision_model
        layers = [layer] if isinstance(layer, int) else list(layer)
        if not layers:
            raise RequestError("vision_feature_layer []: names no layer; give a number or a list of numbers")
        wanted = [depth_of(index, len(tower.encoder.layers)) for index in layers]
        states = tower.encoder(tower.pre_layrnorm(tower.embeddings(pixels)), wanted, trace)
        return states[0] if len(states) == 1 else torch.cat(states, dim=-1)


def initialise(model: ClipVision) -> None:
    """Fresh values: normal, narrower with width and depth; biases 0, norms 1.

    Source: CLIPPreTrainedModel._init_weights, in the reference.
    """
    config, tower = model.config, model.vision_model
    factor, width = config.initializer_factor, config.hidden_size**-0.5
    deep = width * (2 * config.num_hidden_layers) ** -0.5
    nn.init.normal_(tower.embeddings.class_embedding, std=width * factor)
    nn.init.normal_(tower.embeddings.patch_embedding.weight, std=config.initializer_range * factor)
    nn.init.normal_(tower.embeddings.position_embedding.weight, std=config.initializer_range * factor)
    for layer in tower.encoder.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.mlp.fc2):
            nn.init.normal_(linear.weight, std=deep * factor)
        nn.init.normal_(layer.self_attn.out_proj.weight, std=width * factor)
        nn.init.normal_(layer.mlp.fc1.weight, std=(2 * config.hidden_size) ** -0.5 * factor)
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
