"""Video-LLaVA under its documented names: signatures and outputs over `models.video_llava`, no arithmetic."""

from collections.abc import Sequence
from typing import Any

import torch

from watchword.config import VideoLlavaConfig
from watchword.errors import RequestError
from watchword.hf.arguments import own_arguments, tensors
from watchword.hf.generation import read_call, run_generate
from watchword.hf.language import Asked, causal_loss, run_causal
from watchword.hf.outputs import ModelOutput, VideoLlavaCausalLMOutputWithPast, VideoLlavaModelOutputWithPast
from watchword.hf.pretrained import Pretrained, known_only
from watchword.models import build
from watchword.models.video_llava import VideoLlava
from watchword.shapes import Bool, Float, Int, Tensor


class VideoLlavaBase(VideoLlava, Pretrained):
    """What the model with and the model without a head share."""

    config_class = VideoLlavaConfig
    main_input_name = "input_ids"

    def get_image_features(
        self,
        pixel_values_images: Float[Tensor, "N 3 H W"],
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
    ) -> Float[Tensor, "N P D"]:
        """Projected patch features of each picture."""
        return self.image_tokens(
            pixel_values_images, layer=vision_feature_layer, strategy=vision_feature_select_strategy
        )

    def get_video_features(
        self,
        pixel_values_videos: Tensor | Sequence[Tensor],
        vision_feature_layer: int | list[int] | None = None,
    ) -> tuple[Float[Tensor, "F P D"], int]:
        """Projected patch features of each frame of each clip, and the number of frames per clip.

        Raises:
            RequestError: clips of several lengths, which have no such number.
        """
        tokens = self.video_tokens(pixel_values_videos, layer=vision_feature_layer)
        clips = [pixel_values_videos] if isinstance(pixel_values_videos, Tensor) else pixel_values_videos
        lengths = {clip.shape[-4] for clip in clips}
        if len(lengths) > 1:
            raise RequestError(
                f"get_video_features: clips of {sorted(lengths)} frames; expected one length; ask for each "
                "length alone"
            )
        return tokens, lengths.pop()

    def get_placeholder_mask(
        self,
        input_ids: Int[Tensor, "B L"] | None,
        inputs_embeds: Float[Tensor, "B L D"],
        image_features: Tensor | None = None,
        video_features: Tensor | None = None,
    ) -> tuple[Bool[Tensor, "B L D"], Bool[Tensor, "B L D"]]:
        """Where image and video placeholders stand, as wide as the embeddings.

        Raises:
            RequestError: features are given and their number differs from the placeholders'.
        """
        found = self.marks(input_ids, inputs_embeds)
        for what, marks, features in zip(("Image", "Videos"), found, (image_features, video_features)):
            if features is not None and int(marks.sum()) != features.shape[0] * features.shape[1]:
                raise RequestError(
                    f"{what} features and image tokens do not match: tokens: {int(marks.sum())}, "
                    f"features {features.shape[0] * features.shape[1]}"
                )
        image, video = (marks[..., None].expand_as(inputs_embeds) for marks in found)
        return image, video

    def run(
        self,
        input_ids: Tensor | None,
        pixel_values_images: Tensor | None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None,
        inputs_embeds: Tensor | None,
        vision_feature_layer: int | list[int] | None,
        vision_feature_select_strategy: str | None,
        asked: Asked,
    ) -> tuple[ModelOutput, dict[str, Tensor]]:
        """Embed, splice, and run the text model; the documented passes wrap different things around."""
        if (input_ids is None) == (inputs_embeds is None):
            raise RequestError("You must specify exactly one of input_ids or inputs_embeds")
        masks = (asked.attention_mask, pixel_values_images)
        embeds = self.begun(input_ids, inputs_embeds, *masks, position_ids=asked.position_ids)
        tokens: dict[str, Tensor] = {}
        if pixel_values_images is not None:
            tokens["image_hidden_states"] = self.get_image_features(
                pixel_values_images, vision_feature_layer, vision_feature_select_strategy
            )
        if pixel_values_videos is not None:
            tokens["video_hidden_states"] = self.video_tokens(pixel_values_videos, layer=vision_feature_layer)
        # Later steps embed a generated placeholder as a word.
        if tokens or not continues(asked.past_key_values):
            embeds = self.place(
                embeds, input_ids, tokens.get("image_hidden_states"), tokens.get("video_hidden_states")
            )
        return run_causal(self.language_model, embeds, asked), tokens

    def begun(
        self, input_ids: Any, inputs_embeds: Any, attention_mask: Any, images: Any, **others: Any
    ) -> Float[Tensor, "B L D"]:
        """The prompt's embeddings before its media are in them; what should be tensors is checked."""
        tensors(
            type(self).__name__,
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            pixel_values_images=images,
            **others,
        )
        return self.embedded(input_ids) if inputs_embeds is None else inputs_embeds


class VideoLlavaModel(VideoLlavaBase):
    """Video-LLaVA without its language-model head."""

    def __init__(self, config: VideoLlavaConfig) -> None:
        super().__init__(config, head=False, backend=self.backend_of(config))
        self.fresh(build.initialise)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_images: Tensor | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object = None,
        inputs_embeds: Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        **kwargs,
    ) -> VideoLlavaModelOutputWithPast | tuple:
        """Text states for ids or embeddings with pictures and clips in their places.

        Args:
            pixel_values_videos: clips of one length as a tensor, or of several lengths as a list of tensors.
            cache_position: accepted; places follow from `past_key_values`.

        Raises:
            RequestError: both or neither of ids and embeddings; placeholders and media that do not match.
        """
        known_only(self, kwargs)
        asked = Asked(
            attention_mask,
            position_ids,
            past_key_values,
            use_cache,
            *self.wanted(output_attentions, output_hidden_states),
        )
        out, tokens = self.run(
            input_ids,
            pixel_values_images,
            pixel_values_videos,
            inputs_embeds,
            vision_feature_layer,
            vision_feature_select_strategy,
            asked,
        )
        return self.returned(VideoLlavaModelOutputWithPast(**dict(out.items()), **tokens), return_dict)


class VideoLlavaForConditionalGeneration(VideoLlavaBase):
    """Video-LLaVA: answers about pictures and videos.

    Example:
        >>> from watchword import VideoLlavaConfig
        >>> config = VideoLlavaConfig(
        ...     {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        ...      "image_size": 4, "patch_size": 2},
        ...     {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        ...      "num_attention_heads": 2, "vocab_size": 50}, image_token_index=40, video_token_index=41)
        >>> VideoLlavaForConditionalGeneration(config).num_parameters()
        3544
    """

    def __init__(self, config: VideoLlavaConfig) -> None:
        super().__init__(config, head=True, backend=self.backend_of(config))
        self.fresh(build.initialise)

    @property
    def lm_head(self) -> torch.nn.Linear:
        """The language-model head."""
        return self.language_model.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_images: Tensor | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object = None,
        inputs_embeds: Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> VideoLlavaCausalLMOutputWithPast | tuple:
        """Scores of the next token at each position, and the loss when labels are given.

        Args:
            pixel_values_videos: clips of one length as a tensor, or of several lengths as a list of tensors.
            labels: the ids themselves, -100 where no loss is wanted (placeholders, prompt, padding).
            cache_position: accepted; places follow from `past_key_values`.
            logits_to_keep: logits of the last n positions only (0: all), or of the positions in an index
                tensor.
            **kwargs: `num_items_in_batch`, the divisor of the loss under gradient accumulation.

        Raises:
            RequestError: both or neither of ids and embeddings; placeholders and media that do not match.
        """
        items = known_only(self, kwargs, "num_items_in_batch")
        asked = Asked(
            attention_mask,
            position_ids,
            past_key_values,
            use_cache,
            *self.wanted(output_attentions, output_hidden_states),
            logits_to_keep,
        )
        out, tokens = self.run(
            input_ids,
            pixel_values_images,
            pixel_values_videos,
            inputs_embeds,
            vision_feature_layer,
            vision_feature_select_strategy,
            asked,
        )
        loss = None if labels is None else causal_loss(out.logits, labels, **items)
        return self.returned(
            VideoLlavaCausalLMOutputWithPast(loss=loss, **dict(out.items()), **tokens), return_dict
        )

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        pixel_values_images: Tensor | None = None,
        pixel_values_videos: Tensor | Sequence[Tensor] | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **generate_kwargs,
    ) -> Tensor | ModelOutput:
        """Prompt ids and what follows them; media are encoded once, whatever the number of beams.

        The vision arguments are those of `forward`.

        Raises:
            RequestError: placeholders and media that do not match; a `max_length` not above the prompt's; an
                option that is not supported, by name.
        """
        if input_ids is None and inputs_embeds is None:
            raise RequestError(
                "generate: neither input_ids nor inputs_embeds; give what the processor returns"
            )
        own = own_arguments(type(self).generate)
        call = read_call(self.generation_config, generate_kwargs, own=own)
        embeds = self.begun(input_ids, inputs_embeds, attention_mask, pixel_values_images)
        layer, images, videos = vision_feature_layer, None, None
        if pixel_values_images is not None:
            strategy = vision_feature_select_strategy
            images = self.image_tokens(pixel_values_images, layer=layer, strategy=strategy)
        if pixel_values_videos is not None:
            videos = self.video_tokens(pixel_values_videos, layer=layer)
        embeds = self.place(embeds, input_ids, images, videos)
        return run_generate(
            self.language_model,
            embeds=embeds,
            attention_mask=attention_mask,
            input_ids=input_ids,
            call=call,
            is_encoder_decoder=False,
            max_positions=None,  # the reference looks for it in the family's config
        )


def continues(past_key_values: object) -> bool:
    """True when the call continues a sequence whose media are already in the cache."""
    if hasattr(past_key_values, "get_seq_length"):
        return past_key_values.get_seq_length() > 0
    return isinstance(past_key_values, tuple | list) and len(past_key_values) > 0
