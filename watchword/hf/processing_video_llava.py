"""The documented processor of Video-LLaVA."""

from collections.abc import Mapping
from typing import Any, ClassVar

from watchword.errors import RequestError, refuse_unknown
from watchword.hf.arguments import refuse_others
from watchword.hf.features import BatchFeature
from watchword.hf.image_processing import VideoLlavaImageProcessor
from watchword.hf.processor import Processor, as_texts, check_parts, joined
from watchword.hf.video_processing import VideoLlavaVideoProcessor
from watchword.prompt.calls import CALL_OPTIONS
from watchword.prompt.placeholder import check_kept, expand_text


class VideoLlavaProcessor(Processor):
    """Pictures, clips and a prompt that names them to the inputs of Video-LLaVA.

    Args:
        image_processor: a `VideoLlavaImageProcessor`.
        video_processor: a `VideoLlavaVideoProcessor`.
        tokenizer: the language model's; its own `image_token` and `video_token`, if it has them, win over the
            arguments.
        patch_size: side of the vision tower's patches in pixels.
        vision_feature_select_strategy: "default" drops the class token of pictures (never of clips), "full"
            keeps it.
        image_token: stands for a picture in the text.
        video_token: stands for a clip in the text.
        chat_template: for `apply_chat_template`.
        num_additional_image_tokens: tokens that the tower adds to the patches: 1, the class token.
    """

    attributes: ClassVar = ("image_processor", "video_processor", "tokenizer")
    fields: ClassVar = (
        "patch_size",
        "vision_feature_select_strategy",
        "image_token",
        "video_token",
        "num_additional_image_tokens",
    )
    media_classes: ClassVar = {
        "image_processor": VideoLlavaImageProcessor,
        "video_processor": VideoLlavaVideoProcessor,
    }

    default_tensors: ClassVar = "pt"

    def __init__(
        self,
        image_processor: Any = None,
        video_processor: Any = None,
        tokenizer: Any = None,
        patch_size: int | None = 14,
        vision_feature_select_strategy: str | None = "default",
        image_token: str = "<image>",
        video_token: str = "<video>",
        chat_template: str | dict[str, str] | None = None,
        num_additional_image_tokens: int = 1,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, kwargs, ())
        check_parts(
            type(self).__name__,
            image_processor=image_processor,
            video_processor=video_processor,
            tokenizer=tokenizer,
        )
        self.image_processor, self.video_processor, self.tokenizer = (
            image_processor,
            video_processor,
            tokenizer,
        )
        # folders of 4.45 and 4.46 hold null for these
        self.patch_size = 14 if patch_size is None else patch_size
        self.vision_feature_select_strategy = vision_feature_select_strategy or "default"
        self.num_additional_image_tokens = num_additional_image_tokens
        self.image_token = getattr(tokenizer, "image_token", None) or image_token
        self.video_token = getattr(tokenizer, "video_token", None) or video_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.chat_template = chat_template

    @refuse_others
    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        videos: Any = None,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Inputs of the model; the media belong to the placeholders in the order of the text.

        Args:
            text: a prompt or a list of them, with `<image>` and `<video>` where the media belong.
            images: a picture (PIL, array or tensor) or a list of them, for all texts together.
            videos: a clip (frames as array, tensor or list of pictures) or a list of clips, likewise.

        Returns:
            `pixel_values_images`, `pixel_values_videos`, `input_ids`, `attention_mask`, as far as they were
            given.

        Raises:
            RequestError: nothing given, more or fewer placeholders than media, or placeholders cut off by
                truncation.
            UnknownArgument: any other argument.
        """
        options = {"padding": padding, "truncation": truncation, "max_length": max_length}
        return self._inputs(text, images, videos, options, return_tensors, {})

    def _inputs(
        self,
        text: Any,
        images: Any,
        videos: Any,
        options: dict[str, Any],
        tensors: str | None,
        sampling: dict[str, Any],
    ) -> BatchFeature:
        name = type(self).__name__
        if text is None and images is None and videos is None:
            raise RequestError(f"{name}: expected text, images or videos; got none of them")
        pixels: dict[str, Any] = {}
        words: Mapping[str, Any] = {}
        texts = None if text is None else as_texts(name, text)
        if images is not None:
            pixels |= dict(self.image_processor(images=images, return_tensors=tensors))
            if texts is not None:
                counts = [self._tokens(image, image=True) for image in pixels["pixel_values_images"]]
                texts = expand_text(texts, self.image_token, counts, "image")
        if videos is not None:
            pixels |= dict(self.video_processor(videos=videos, return_tensors=tensors, **sampling))
            if texts is not None:
                counts = [self._tokens(clip[0]) * len(clip) for clip in pixels["pixel_values_videos"]]
                texts = expand_text(texts, self.video_token, counts, "video")
        if texts is not None:
            words = self.tokenizer(texts, **options)
            check_kept(texts, words["input_ids"], self.image_token, self.image_token_id, "image")
            check_kept(texts, words["input_ids"], self.video_token, self.video_token_id, "video")
        return joined(words, pixels, tensors, media_first=True)

    def _tokens(self, picture: Any, image: bool = False) -> int:
        """Visual tokens of a picture or frame: its patches and the class token, which pictures may drop."""
        height, width = picture.shape[-2:]
        dropped = image and self.vision_feature_select_strategy == "default"
        patches = (height // self.patch_size) * (width // self.patch_size)
        return patches + self.num_additional_image_tokens - dropped

    def _chat_inputs(
        self,
        texts: list[str],
        images: list[Any],
        videos: list[Any],
        options: dict[str, Any],
        sampling: dict[str, Any],
    ) -> BatchFeature:
        tensors = options.pop("return_tensors")
        refuse_unknown(f"{type(self).__name__}.apply_chat_template", options, CALL_OPTIONS)
        return self._inputs(texts, images or None, videos or None, options, tensors, sampling)
