"""Results that can be read by attribute, by key, by index and as a tuple; what is absent takes no place."""

from collections.abc import Iterator
from typing import Any, ClassVar

from watchword.errors import UnknownArgument


class ModelOutput(dict):
    """An ordered mapping of the fields that have a value; every field is an attribute too, None when absent.

    `output["logits"]`, `output.logits`, `output[0]` (the first field present) and `output.to_tuple()` all
    work.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **values: Any) -> None:
        unknown = [name for name in values if name not in self.names]
        if unknown:
            raise UnknownArgument(
                f"{type(self).__name__}: no field {unknown[0]!r}; it has {', '.join(self.names)}"
            )
        super().__init__({name: values[name] for name in self.names if values.get(name) is not None})
        self.__dict__.update({name: values.get(name) for name in self.names})

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field in both views."""
        self.__dict__[name] = value
        if name in self.names:
            self.pop(name, None)
            if value is not None:
                super().__setitem__(name, value)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.names if dict.__contains__(self, name))

    def keys(self) -> list[str]:
        """Names of the fields present, in declared order."""
        return list(self)

    def values(self) -> list[Any]:
        """Values of the fields present, in declared order."""
        return [super(ModelOutput, self).__getitem__(name) for name in self]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values of the fields present."""
        return list(zip(self.keys(), self.values()))

    def to_tuple(self) -> tuple[Any, ...]:
        """The values of the fields present, in order."""
        return tuple(self.values())

    def __reduce__(self) -> tuple:
        return (_restore, (type(self), dict(self.items())))


def _restore(cls: type[ModelOutput], values: dict) -> ModelOutput:
    return cls(**values)


class BaseModelOutputWithPooling(ModelOutput):
    """Of a vision tower: patch features, pooled feature, and on request every layer's states and weights."""

    names = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")


class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """Of the Q-Former."""

    names = (
        "last_hidden_state",
        "pooler_output",
        "hidden_states",
        "past_key_values",
        "attentions",
        "cross_attentions",
    )


class BaseModelOutputWithPast(ModelOutput):
    """Of a decoder-only text model without its head."""

    names = ("last_hidden_state", "past_key_values", "hidden_states", "attentions")


class CausalLMOutputWithPast(ModelOutput):
    """Of a decoder-only text model."""

    names = ("loss", "logits", "past_key_values", "hidden_states", "attentions")


class Seq2SeqModelOutput(ModelOutput):
    """Of an encoder-decoder text model without its head."""

    names = (
        "last_hidden_state",
        "past_key_values",
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
        "encoder_attentions",
    )


class Seq2SeqLMOutput(ModelOutput):
    """Of an encoder-decoder text model."""

    names = ("loss", "logits", *Seq2SeqModelOutput.names[1:])


class InstructBlipForConditionalGenerationModelOutput(ModelOutput):
    """Of both InstructBLIP families: the answer's scores and what each part returned."""

    names = ("loss", "logits", "vision_outputs", "qformer_outputs", "language_model_outputs")

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields present, the nested outputs as tuples too."""
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


class InstructBlipVideoForConditionalGenerationModelOutput(InstructBlipForConditionalGenerationModelOutput):
    """The same fields; vision and Q-Former outputs have one row per frame."""


class VideoLlavaModelOutputWithPast(ModelOutput):
    """Of the base model: text states, and the projected visual tokens that went into them."""

    names = (
        "last_hidden_state",
        "past_key_values",
        "hidden_states",
        "attentions",
        "image_hidden_states",
        "video_hidden_states",
    )


class VideoLlavaCausalLMOutputWithPast(ModelOutput):
    """Of the model with its head."""

    names = ("loss", "logits", *VideoLlavaModelOutputWithPast.names[1:])
