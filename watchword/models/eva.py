"""The EVA-style vision transformer of InstructBLIP: fused projection, any picture size on demand."""

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import InstructBlipVisionConfig
from watchword.errors import RequestError
from watchword.models.splice import finite
from watchword.nn.attention import attention
from watchword.nn.layers import check_heads, join_heads
from watchword.nn.trace import Trace
from watchword.nn.vit import VitEncoder, check_frames, class_first, patch_rows
from watchword.shapes import Float, Tensor


class EvaAttention(nn.Module):
    """Self-attention over all patches; queries, keys and values from one projection, in this order."""

    def __init__(self, config: InstructBlipVisionConfig, *, backend: str) -> None:
        super().__init__()
        width = config.hidden_size
        check_heads(width, config.num_attention_heads, "vision_config")
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(width, 3 * width, bias=config.qkv_bias)
        self.projection = nn.Linear(width, width)
        self.dropout = config.attention_dropout
        self.backend = backend

    def forward(self, x: Float[Tensor, "B P D"], trace: Trace | None) -> Float[Tensor, "B P D"]:
        """Every row looks at every row of its picture."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 B h P d
        out, weights = attention(
            q,
            k,
            v,
            dropout=self.dropout if self.training else 0.0,
            backend=self.backend,
            want_weights=trace is not None and trace.wants_weights,
            upcast=False,  # Source: eager_attention_forward of the reference's modeling_instructblip
        )
        if trace is not None:
            trace.weights(weights)
        return self.projection(join_heads(out))


class EvaEmbeddings(nn.Module):
    """Patches behind a class token, each with its place added; the table of places can stretch."""

    def __init__(self, config: InstructBlipVisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.image_size, self.patch_size = config.image_size, patch
        self.grid = config.image_size // patch
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.position_embedding = nn.Parameter(torch.zeros(1, self.grid**2 + 1, width))

    def forward(self, pixels: Float[Tensor, "B C H W"], interpolate: bool) -> Float[Tensor, "B P D"]:
        """Class token and patches, placed."""
        check_frames(pixels, self.patch_embedding.in_channels)
        places = self.places(*pixels.shape[-2:], interpolate)
        x = class_first(self.class_embedding, patch_rows(pixels, self.patch_embedding))
        return x + places.to(x.dtype)

    def places(self, height: int, width: int, interpolate: bool) -> Float[Tensor, "1 P D"]:
        """The table of places for pictures of that size.

        Raises:
            RequestError: another size than the config's without `interpolate`, or a side below one patch.
        """
        size, patch = self.image_size, self.patch_size
        if not interpolate and (height, width) != (size, size):
            # A smaller picture would otherwise take the head of the table, and answer with wrong places.
            raise RequestError(
                f"pixel_values: Input image size ({height}*{width}) doesn't match model ({size}*{size}); "
                "resize to it as this model's processor does, or pass interpolate_pos_encoding=True"
            )
        rows, columns = height // patch, width // patch
        if not rows or not columns:
            raise RequestError(
                f"pixel_values: Input image size ({height}*{width}) is below one patch of {patch}*{patch}; "
                "give a larger picture"
            )
        if rows == columns == self.grid and height == width:
            return self.position_embedding
        table = self.position_embedding[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        # In the parameter's type, by target size, corners not aligned: each of these changes the numbers.
        table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat((self.position_embedding[:, :1], table.flatten(2).transpose(1, 2)), dim=1)


class EvaVision(nn.Module):
    """InstructBLIP's vision tower. Attribute names are what checkpoints keep under `vision_model.`

    Args:
        config: `InstructBlipVisionConfig`.
        backend: attention backend, a key of `nn.attention.BACKENDS`.
    """

    def __init__(self, config: InstructBlipVisionConfig, *, backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.embeddings = EvaEmbeddings(config)
        width, eps = config.hidden_size, config.layer_norm_eps
        self.encoder = VitEncoder(
            config.num_hidden_layers,
            lambda: EvaAttention(config, backend=backend),
            width=width,
            inner=config.intermediate_size,
            act=config.hidden_act,
            eps=eps,
        )
        self.post_layernorm = nn.LayerNorm(width, eps=eps)

    def features(
        self, pixels: Float[Tensor, "B C H W"], *, interpolate: bool = False, trace: Trace | None = None
    ) -> tuple[Float[Tensor, "B P D"], Float[Tensor, "B D"]]:
        """All patch features, normed, class token first; and the class token normed once more, pooled.

        Args:
            pixels: normalised; image_size × image_size unless `interpolate`.
            interpolate: stretch the table of places to the picture's grid; a rest below one patch is cut off.
            trace: collects hidden states (before the last norm, embeddings first) and attentions.

        Raises:
            RequestError: pixels that are not finite numbers, or of another size.

        Source: InstructBlipVisionModel.forward, in the reference.
        """
        x = self.embeddings(finite(pixels, "pixel_values"), interpolate)
        (x,) = self.encoder(x, [len(self.encoder.layers)], trace)
        x = self.post_layernorm(x)
        return x, self.post_layernorm(x[:, 0])


def initialise(model: EvaVision) -> None:
    """Fresh values: normal and, for class token and places, cut normal; biases 0, norms 1.

    The published initializer_range of 1e-10 makes a fresh tower nearly constant.
    Source: InstructBlipPreTrainedModel._init_weights, in the reference.
    """
    std = model.config.initializer_range
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.embeddings.position_embedding, std=std)
    nn.init.trunc_normal_(model.embeddings.class_embedding, std=std)
