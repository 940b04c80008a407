"""InstructBLIP's vision tower and Q-Former as documented models of their own."""

import torch

from watchword.config import (
    InstructBlipQFormerConfig,
    InstructBlipVideoQFormerConfig,
    InstructBlipVideoVisionConfig,
    InstructBlipVisionConfig,
)
from watchword.errors import RequestError
from watchword.hf import outputs
from watchword.hf.arguments import tensors
from watchword.hf.outputs import ModelOutput
from watchword.hf.pretrained import Pretrained
from watchword.models import build
from watchword.models.eva import EvaVision
from watchword.models.qformer import QFormer
from watchword.nn.trace import Trace
from watchword.shapes import Tensor


class VisionDoor(EvaVision, Pretrained):
    """The vision tower as a model of its own."""

    def __init__(self, config: InstructBlipVisionConfig | InstructBlipVideoVisionConfig) -> None:
        super().__init__(config, backend=self.backend_of(config))
        self.fresh(build.initialise)

    def get_input_embeddings(self) -> torch.nn.Module:
        """Patches and places."""
        return self.embeddings

    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> ModelOutput | tuple:
        """Features of every patch, normed; and the class token's, normed once more.

        Raises:
            RequestError: no pixels, or pixels of another size than the config's without
                `interpolate_pos_encoding`.
        """
        if pixel_values is None:
            raise RequestError("You have to specify pixel_values")
        tensors(type(self).__name__, pixel_values=pixel_values)
        weights, states = self.wanted(output_attentions, output_hidden_states)
        trace = Trace.asked(states, weights)
        features, pooled = self.features(pixel_values, interpolate=interpolate_pos_encoding, trace=trace)
        out = outputs.BaseModelOutputWithPooling(
            last_hidden_state=features, pooler_output=pooled, **traced(trace)
        )
        return self.returned(out, return_dict)


class InstructBlipVisionModel(VisionDoor):
    """InstructBLIP's vision tower."""

    config_class = InstructBlipVisionConfig


class InstructBlipVideoVisionModel(VisionDoor):
    """InstructBlipVideo's vision tower: frame by frame the same."""

    config_class = InstructBlipVideoVisionConfig


class QFormerDoor(QFormer, Pretrained):
    """The Q-Former as a model of its own."""

    main_input_name = "input_ids"

    def __init__(self, config: InstructBlipQFormerConfig | InstructBlipVideoQFormerConfig) -> None:
        super().__init__(self.checked(config))
        self.fresh(build.initialise)

    def get_input_embeddings(self) -> torch.nn.Module:
        """The instruction's token embedding."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replace the instruction's token embedding."""
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        query_embeds: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ModelOutput | tuple:
        """States of queries (first) and words.

        Raises:
            RequestError: neither queries nor words, queries without a picture, masks that do not fit.
        """
        tensors(type(self).__name__, input_ids=input_ids, attention_mask=attention_mask)
        weights, states = self.wanted(output_attentions, output_hidden_states)
        trace = Trace.asked(states, weights)
        found = self.states(
            query_embeds,
            encoder_hidden_states,
            ids=input_ids,
            mask=attention_mask,
            memory_mask=encoder_attention_mask,
            places=position_ids,
            keep=head_mask,
            trace=trace,
        )
        out = outputs.BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=found, pooler_output=found[:, 0], **traced(trace, cross=True)
        )
        return self.returned(out, return_dict)


class InstructBlipQFormerModel(QFormerDoor):
    """InstructBLIP's Q-Former."""

    config_class = InstructBlipQFormerConfig


class InstructBlipVideoQFormerModel(QFormerDoor):
    """InstructBlipVideo's Q-Former."""

    config_class = InstructBlipVideoQFormerConfig


def traced(trace: Trace, *, cross: bool = False) -> dict[str, tuple[Tensor, ...] | None]:
    """A trace's lists as output fields."""
    found = {"hidden_states": trace.hidden_states, "attentions": trace.attentions}
    if cross:
        found["cross_attentions"] = trace.cross_attentions
    return {name: None if values is None else tuple(values) for name, values in found.items()}
