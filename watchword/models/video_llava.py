"""Video-LLaVA: two CLIP towers, one projector, one LLaMA or Mistral."""

from collections.abc import Sequence

import torch
from torch import nn

from watchword.config import VideoLlavaConfig
from watchword.errors import RequestError
from watchword.models.clip import ClipVision
from watchword.models.language import language_model
from watchword.models.splice import finite, placeholders, splice
from watchword.nn.layers import activation
from watchword.shapes import Bool, Float, Int, Tensor

STRATEGIES = ("default", "full")
Clips = Float[Tensor, "N T 3 H W"] | Sequence[Tensor]
"""Clips of one length as a tensor, or of several lengths as a list of T 3 H W (or 1 T 3 H W) tensors."""


class Projector(nn.Module):
    """Two linear layers from vision width to text width."""

    def __init__(self, config: VideoLlavaConfig) -> None:
        super().__init__()
        layers = config.vision_feature_layer
        width = config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers))
        bias, out = config.multimodal_projector_bias, config.text_config.hidden_size
        self.linear_1 = nn.Linear(width, out, bias=bias)
        self.linear_2 = nn.Linear(out, out, bias=bias)
        self.act = activation(config.projector_hidden_act)

    def forward(self, x: Float[Tensor, "B P C"]) -> Float[Tensor, "B P D"]:
        return self.linear_2(self.act(self.linear_1(x)))


class VideoLlava(nn.Module):
    """Attribute names are the published checkpoint's names. Verbs only; the documented `forward` is in `hf`.

    Args:
        config: `VideoLlavaConfig`.
        head: False leaves the language-model head out (the documented base model).
        backend: attention backend, a key of `nn.attention.BACKENDS`.
    """

    def __init__(self, config: VideoLlavaConfig, *, head: bool = True, backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.image_tower = ClipVision(config.vision_config, backend=backend)
        self.video_tower = ClipVision(config.vision_config, backend=backend)
        self.multi_modal_projector = Projector(config)
        self.language_model = language_model(config.text_config, head=head, backend=backend)

    def image_tokens(
        self,
        pixels: Float[Tensor, "N 3 H W"],
        *,
        layer: int | Sequence[int] | None = None,
        strategy: str | None = None,
    ) -> Float[Tensor, "N P D"]:
        """Projected patches of each picture, under "default" without the class token (256 at 224 px)."""
        strategy = self.config.vision_feature_select_strategy if strategy is None else strategy
        if strategy not in STRATEGIES:
            raise RequestError(
                f"Unexpected select feature strategy: {strategy!r}; "
                f"use one of {', '.join(map(repr, STRATEGIES))}"
            )
        pixels = finite(pixels, "pixel_values_images")
        features = self.image_tower.features(pixels, self.feature_layer(layer))
        return self.multi_modal_projector(features[:, 1:] if strategy == "default" else features)

    def video_tokens(
        self, clips: Clips, *, layer: int | Sequence[int] | None = None
    ) -> Float[Tensor, "F P D"]:
        """Projected patches of every frame of every clip. The class token always stays (257 at 224 px)."""
        frames = finite(join_clips(clips), "pixel_values_videos")
        return self.multi_modal_projector(self.video_tower.features(frames, self.feature_layer(layer)))

    def feature_layer(self, layer: int | Sequence[int] | None) -> int | Sequence[int]:
        """The layers asked for, else the config's."""
        return self.config.vision_feature_layer if layer is None else layer

    def embed(
        self,
        ids: Int[Tensor, "B L"],
        *,
        images: Float[Tensor, "N 3 H W"] | None = None,
        clips: Clips | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Text embeddings with the visual tokens in their places."""
        image_tokens = None if images is None else self.image_tokens(images)
        video_tokens = None if clips is None else self.video_tokens(clips)
        return self.place(self.language_model.embed(ids), ids, image_tokens, video_tokens)

    def marks(
        self, ids: Int[Tensor, "B L"] | None, embeds: Float[Tensor, "B L D"]
    ) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Where image and where video placeholders stand."""
        table = self.language_model.get_input_embeddings()
        indices = (self.config.image_token_index, self.config.video_token_index)
        image, video = (placeholders(ids, embeds, index, table) for index in indices)
        return image, video

    def place(
        self,
        embeds: Float[Tensor, "B L D"],
        ids: Int[Tensor, "B L"] | None,
        image_tokens: Float[Tensor, "N P D"] | None,
        video_tokens: Float[Tensor, "F R D"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Splice pictures, then clips. Placeholders without media are an error, and media without them."""
        image_marks, video_marks = self.marks(ids, embeds)
        for what, marks, tokens in (
            ("image", image_marks, image_tokens),
            ("video", video_marks, video_tokens),
        ):
            if tokens is None:
                tokens = embeds.new_zeros(0, 1, embeds.shape[-1])
            embeds = splice(embeds, tokens.flatten(0, 1), marks, what=what)
        return embeds


def join_clips(clips: Clips) -> Float[Tensor, "F 3 H W"]:
    """All frames of all clips, one after the other.

    Raises:
        RequestError: a tensor without a frame axis, or frames of different sizes.
    """
    if isinstance(clips, Tensor):
        clips = [clips]
    frames = [clip.flatten(0, -4) for clip in clips if isinstance(clip, Tensor) and clip.ndim in (4, 5)]
    if len(frames) != len(clips) or not frames:
        got = [tuple(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__ for clip in clips]
        raise RequestError(
            f"pixel_values_videos: got shape {got[0] if len(got) == 1 else got}; expected (clips, frames, 3, "
            "height, width), or a list with (frames, 3, height, width) for each clip"
        )
    sizes = {tuple(f.shape[1:]) for f in frames}
    if len(sizes) > 1:
        raise RequestError(
            f"pixel_values_videos: frames of different sizes {sorted(sizes)}; resize them to one size"
        )
    return frames[0] if len(frames) == 1 else torch.cat(frames)


def initialise(model: VideoLlava) -> None:
    """Fresh values of the family's own part, the projector. Source: the reference's _init_weights."""
    std = getattr(model.config, "initializer_range", None) or model.config.text_config.initializer_range
    for linear in (model.multi_modal_projector.linear_1, model.multi_modal_projector.linear_2):
        nn.init.normal_(linear.weight, std=std)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
