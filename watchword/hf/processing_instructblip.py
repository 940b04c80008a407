"""The documented processors of InstructBLIP and InstructBlipVideo."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from watchword.errors import RequestError, refuse_unknown
from watchword.hf.features import BatchFeature
from watchword.hf.image_processing import BlipImageProcessor
from watchword.hf.processor import Processor, as_texts, check_parts, joined
from watchword.hf.video_processing import InstructBlipVideoVideoProcessor
from watchword.prompt import AddedToken
from watchword.prompt.calls import CALL_OPTIONS, NOT_SUPPORTED

TEXT_OPTIONS = tuple(name for name in (*CALL_OPTIONS, *NOT_SUPPORTED) if name != "return_tensors")
IMAGE_OPTIONS = (
    "do_resize",
    "size",
    "size_divisor",
    "crop_size",
    "resample",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "do_center_crop",
    "do_convert_rgb",
    "data_format",
    "input_data_format",
    "device",
)
TEXT_DEFAULTS = {
    "add_special_tokens": True,
    "padding": False,
    "stride": 0,
    "return_overflowing_tokens": False,
    "return_special_tokens_mask": False,
    "return_offsets_mapping": False,
    "return_token_type_ids": False,
    "return_length": False,
    "verbose": True,
}
GROUPS = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")


class QFormerProcessor(Processor):
    """What InstructBLIP's two processors share: two tokenizers, and visual tokens in front of everything."""

    def _set_words(
        self, tokenizer: Any, qformer_tokenizer: Any, num_query_tokens: int | None, placeholder: str
    ) -> Any:
        """Take the tokenizers; returns the placeholder, which the tokenizer has or gets."""
        self.tokenizer = tokenizer
        self.qformer_tokenizer = qformer_tokenizer
        self.num_query_tokens = num_query_tokens
        known = getattr(tokenizer, f"{placeholder.strip('<>')}_token", None)
        if known is not None:
            return known
        token = AddedToken(placeholder, normalized=False, special=True)
        tokenizer.add_tokens([token], special_tokens=True)
        return token

    def _encode(self, texts: list[str], options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Columns of the Q-Former's ids, and of the language model's before any visual token."""
        question = self.qformer_tokenizer(texts, **options)
        asked = {
            f"qformer_{name}": question[name] for name in ("input_ids", "attention_mask") if name in question
        }
        options = dict(options)
        if options.get("max_length") is not None and self.num_query_tokens is not None:
            # the reference leaves room for one picture's tokens, also without a picture and also for a clip
            if options["max_length"] < self.num_query_tokens:
                raise RequestError(
                    f"{type(self).__name__}: max_length={options['max_length']} has no room for the "
                    f"{self.num_query_tokens} "
                    "visual tokens that it includes; raise it"
                )
            options["max_length"] -= self.num_query_tokens
        return asked, dict(self.tokenizer(texts, **options))

    def _prepend(
        self, words: dict[str, Any], token: Any, counts: Sequence[int], rows: int, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Put each row's visual tokens in front of it, before BOS and before padding on the left."""
        if len(counts) != rows:
            raise RequestError(
                f"{type(self).__name__}: {rows} text(s) and {len(counts)} picture(s) or clip(s); expected "
                "one for each text"
            )
        text = str(token)
        column = words.get("overflow_to_sample_mapping", range(rows))
        counts = [counts[row] for row in column]
        index = self.tokenizer.convert_tokens_to_ids(text)
        fronts = {
            "input_ids": lambda n: [index] * n,
            "attention_mask": lambda n: [1] * n,
            "token_type_ids": lambda n: [0] * n,
            "special_tokens_mask": lambda n: [0] * n,
            "offset_mapping": lambda n: [(k * len(text), (k + 1) * len(text)) for k in range(n)],
        }
        fills = {"input_ids": self.tokenizer.pad_token_id, "special_tokens_mask": 1, "offset_mapping": (0, 0)}
        # clips of several lengths: padded rows stay equally long
        missing = [max(counts) - n if options.get("padding") else 0 for n in counts]
        left = (options.get("padding_side") or self.tokenizer.padding_side) == "left"
        for name, values in words.items():
            if name in fronts:
                rows_of = zip(counts, missing, values)
                filled = [(fronts[name](n), [fills.get(name, 0)] * m, list(value)) for n, m, value in rows_of]
                words[name] = [f + (p + v if left else v + p) for f, p, v in filled]
            elif name == "length":
                words[name] = [n + m + value for n, m, value in zip(counts, missing, values)]
        return words


class InstructBlipProcessor(QFormerProcessor):
    """A picture and an instruction to the inputs of InstructBLIP.

    Args:
        image_processor: a `BlipImageProcessor`.
        tokenizer: the language model's.
        qformer_tokenizer: the Q-Former's.
        num_query_tokens: visual tokens per picture, as in the model's config. None, as in folders from before
            visual tokens had placeholders, writes none: models of such folders put them in front themselves.
    """

    attributes: ClassVar = ("image_processor", "tokenizer", "qformer_tokenizer")
    fields: ClassVar = ("num_query_tokens",)
    media_classes: ClassVar = {"image_processor": BlipImageProcessor}

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        qformer_tokenizer: Any,
        num_query_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, kwargs, ("chat_template",))
        check_parts(
            type(self).__name__,
            image_processor=image_processor,
            tokenizer=tokenizer,
            qformer_tokenizer=qformer_tokenizer,
        )
        self.image_processor = image_processor
        self.image_token = self._set_words(tokenizer, qformer_tokenizer, num_query_tokens, "<image>")
        self.chat_template = kwargs.get("chat_template")

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        audio: Any = None,
        videos: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs of the model for one picture per text.

        Args:
            images: a picture (PIL, array or tensor) or a list of them.
            text: an instruction or a list of them.
            **kwargs: options of the tokenizers (`padding`, `truncation`, `max_length`, ...) and of the image
                processor, flat or inside `text_kwargs`, `images_kwargs`, `common_kwargs`; and
                `return_tensors` ("pt", "np", None).

        Returns:
            `qformer_input_ids`, `qformer_attention_mask`, `input_ids`, `attention_mask`, `pixel_values`, as
            far as text and images were given.

        Raises:
            RequestError: neither text nor images, unequal numbers of them, or rows that need padding.
            UnknownArgument: an option that no part knows.
        """
        name = type(self).__name__
        if images is None and text is None:
            raise RequestError(f"{name}: expected images, text or both; got neither")
        for medium, value in (("audio", audio), ("videos", videos)):
            if value is not None:
                raise RequestError(f"{name}: takes no {medium}; use images and text")
        options, picture_options, tensors = self._split(kwargs)
        data: dict[str, Any] = {}
        pixels = None
        if images is not None:
            pixels = self.image_processor(images, **picture_options)
        if text is not None:
            texts = as_texts(name, text)
            data, words = self._encode(texts, options)
            if pixels is not None and self.num_query_tokens is not None:
                counts = [self.num_query_tokens] * len(pixels["pixel_values"])
                words = self._prepend(words, self.image_token, counts, len(texts), options)
            data |= words
        return joined(data, pixels, tensors)

    def _split(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str | None]:
        """Options of the tokenizers, of the image processor, and the kind of tensors."""
        name = type(self).__name__
        kwargs = dict(kwargs)
        groups = {group: dict(kwargs.pop(group, None) or {}) for group in GROUPS}
        for group in ("videos_kwargs", "audio_kwargs"):
            refuse_unknown(f"{name}, {group}", groups[group], ("return_tensors",))
        refuse_unknown(name, kwargs, (*TEXT_OPTIONS, *IMAGE_OPTIONS, "return_tensors", *GROUPS))
        for group, known in (("text_kwargs", TEXT_OPTIONS), ("images_kwargs", IMAGE_OPTIONS)):
            refuse_unknown(f"{name}, {group}", groups[group], (*known, "return_tensors"))
            twice = sorted(set(groups[group]) & set(kwargs))
            if twice:
                raise RequestError(
                    f"{name}: {twice[0]} was given twice, in {group} and by itself; give it once"
                )
            groups[group] |= {option: value for option, value in kwargs.items() if option in known}
        # options that the tokenizer's folder holds, at their present values
        own = {
            option: getattr(self.tokenizer, option, value)
            for option, value in getattr(self.tokenizer, "init_kwargs", {}).items()
            if option in TEXT_OPTIONS
        }
        options = TEXT_DEFAULTS | own | groups["text_kwargs"]
        common = groups["common_kwargs"]
        tensors = kwargs.get(
            "return_tensors", common.get("return_tensors", options.pop("return_tensors", None))
        )
        pictures = groups["images_kwargs"]
        if tensors is not None:
            pictures["return_tensors"] = tensors
        return options, pictures, tensors

    @property
    def model_input_names(self) -> list[str]:
        """Names of all inputs."""
        names = [*self.tokenizer.model_input_names, *self.image_processor.model_input_names]
        return [*names, "qformer_input_ids", "qformer_attention_mask"]

    def _chat_inputs(
        self,
        texts: list[str],
        images: list[Any],
        videos: list[Any],
        options: dict[str, Any],
        sampling: dict[str, Any],
    ) -> BatchFeature:
        if videos or sampling:
            raise RequestError(
                f"{type(self).__name__}: the conversation has clips; this family takes pictures"
            )
        return self(images=images or None, text=texts, **options)


class InstructBlipVideoProcessor(QFormerProcessor):
    """A clip and an instruction to the inputs of InstructBlipVideo.

    Args:
        video_processor: an `InstructBlipVideoVideoProcessor`.
        tokenizer: the language model's.
        qformer_tokenizer: the Q-Former's.
        num_query_tokens: visual tokens per frame, as in the model's config; None as for
            `InstructBlipProcessor`.
    """

    attributes: ClassVar = ("video_processor", "tokenizer", "qformer_tokenizer")
    fields: ClassVar = ("num_query_tokens",)
    media_classes: ClassVar = {"video_processor": InstructBlipVideoVideoProcessor}

    def __init__(
        self,
        video_processor: Any,
        tokenizer: Any,
        qformer_tokenizer: Any,
        num_query_tokens: int | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, kwargs, ("chat_template",))
        check_parts(
            type(self).__name__,
            video_processor=video_processor,
            tokenizer=tokenizer,
            qformer_tokenizer=qformer_tokenizer,
        )
        self.video_processor = video_processor
        self.video_token = self._set_words(tokenizer, qformer_tokenizer, num_query_tokens, "<video>")
        self.chat_template = kwargs.get("chat_template")

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_token_type_ids: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs of the model for one clip per text.

        Args:
            images: a clip (frames as array, tensor or list of pictures) or a list of clips.
            text: an instruction or a list of them.
            **kwargs: `padding_side`, `split_special_tokens`.

        Returns:
            `qformer_input_ids`, `qformer_attention_mask`, `input_ids`, `attention_mask`, `pixel_values` (B F
            3 h w), as far as text and clips were given. A row has `num_query_tokens` placeholders for each of
            its frames.

        Raises:
            RequestError: neither text nor clips, unequal numbers of them, or rows that need padding.
            UnknownArgument: an option that no part knows.
        """
        options = {
            "add_special_tokens": add_special_tokens,
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "stride": stride,
            "pad_to_multiple_of": pad_to_multiple_of,
            "return_attention_mask": return_attention_mask,
            "return_overflowing_tokens": return_overflowing_tokens,
            "return_special_tokens_mask": return_special_tokens_mask,
            "return_offsets_mapping": return_offsets_mapping,
            "return_token_type_ids": return_token_type_ids,
            "return_length": return_length,
            "verbose": verbose,
        }
        return self._inputs(images, text, options | kwargs, return_tensors, {})

    def _inputs(
        self, clips: Any, text: Any, options: dict[str, Any], tensors: str | None, sampling: dict[str, Any]
    ) -> BatchFeature:
        name = type(self).__name__
        refuse_unknown(name, options, TEXT_OPTIONS)
        if clips is None and text is None:
            raise RequestError(f"{name}: expected images (a clip), text or both; got neither")
        data: dict[str, Any] = {}
        pixels = None
        if clips is not None:
            pixels = self.video_processor(clips, return_tensors=tensors, **sampling)
        if text is not None:
            texts = as_texts(name, text)
            data, words = self._encode(texts, options)
            if pixels is not None and self.num_query_tokens is not None:
                counts = [self.num_query_tokens * len(clip) for clip in pixels["pixel_values"]]
                words = self._prepend(words, self.video_token, counts, len(texts), options)
            data |= words
        return joined(data, pixels, tensors)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all inputs."""
        names = [*self.tokenizer.model_input_names, *self.video_processor.model_input_names]
        return [*names, "qformer_input_ids", "qformer_attention_mask"]

    def _chat_inputs(
        self,
        texts: list[str],
        images: list[Any],
        videos: list[Any],
        options: dict[str, Any],
        sampling: dict[str, Any],
    ) -> BatchFeature:
        if images:
            raise RequestError(
                f"{type(self).__name__}: the conversation has pictures; this family takes clips"
            )
        tensors = options.pop("return_tensors")
        return self._inputs(
            videos or None, texts, {"return_token_type_ids": False} | options, tensors, sampling
        )
