"""What the four documented InstructBLIP models share: what they see, and what they hand to the text model.

Both families are `models.instructblip.InstructBlip`: a picture is a clip of one frame. Only this file knows
that the documents give pictures no frame axis.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from watchword.config import InstructBlipConfig, InstructBlipVideoConfig
from watchword.errors import RequestError
from watchword.hf import outputs
from watchword.hf.arguments import tensors
from watchword.hf.instructblip_parts import traced
from watchword.hf.language import Asked, run_causal, run_seq2seq
from watchword.hf.outputs import ModelOutput
from watchword.hf.pretrained import Pretrained
from watchword.models import build
from watchword.models.instructblip import InstructBlip, Seen
from watchword.nn.trace import Trace
from watchword.shapes import Bool, Float, Int, Tensor


class InstructBlipBase(InstructBlip, Pretrained):
    """What the four documented model classes share."""

    base_model_prefix = "blip"
    head = True
    output_class = outputs.InstructBlipForConditionalGenerationModelOutput

    def __init__(self, config: InstructBlipConfig | InstructBlipVideoConfig) -> None:
        super().__init__(config, head=self.head, backend=self.backend_of(config))
        self.fresh(build.initialise)

    def clips(self, pixel_values: Tensor | Sequence[Tensor]) -> Tensor | Sequence[Tensor]:
        """Pixels with a frame axis: B T 3 H W, or a list of T 3 H W for clips of several lengths."""
        if self.medium[0] == "image":
            tensors("pixel_values", pixel_values=pixel_values)
            if pixel_values.ndim != 4:
                raise RequestError(
                    f"pixel_values: shape {tuple(pixel_values.shape)}; expected (batch, 3, height, width): "
                    "this model "
                    "takes pictures; for clips use the InstructBlipVideo classes"
                )
            return pixel_values[:, None]
        if not isinstance(pixel_values, Tensor):
            for clip in pixel_values:
                tensors("pixel_values", clip=clip)
        elif pixel_values.ndim != 5:
            raise RequestError(
                f"pixel_values: shape {tuple(pixel_values.shape)}; "
                "expected (batch, frames, 3, height, width); "
                "give a picture one frame with pixel_values[:, None]"
            )
        return pixel_values

    def get_encoder(self) -> torch.nn.Module:
        """The text model's encoder (T5 only)."""
        return self.language_model.encoder

    def get_decoder(self) -> torch.nn.Module:
        """The text model's decoder stack."""
        return (
            self.language_model.decoder
            if self.config.text_config.is_encoder_decoder
            else self.language_model.model
        )

    def get_placeholder_mask(
        self, input_ids: Int[Tensor, "B L"] | None, inputs_embeds: Float[Tensor, "B L D"]
    ) -> Bool[Tensor, "B L D"]:
        """Where placeholders stand, by id or by embedding, as wide as the embeddings."""
        return self.marks(input_ids, inputs_embeds)[..., None].expand_as(inputs_embeds)

    def see_documented(
        self,
        pixel_values: Tensor | Sequence[Tensor],
        qformer_input_ids: Tensor | None,
        qformer_attention_mask: Tensor | None,
        interpolate: bool,
        traces: tuple[Trace, Trace] | None = None,
    ) -> tuple[Seen, ModelOutput, ModelOutput]:
        """Vision tower and Q-Former, with their documented outputs."""
        if qformer_input_ids is None:
            raise RequestError(
                "qformer_input_ids: missing; the Q-Former reads the instruction too, "
                "pass what the processor returns"
            )
        if pixel_values is None:
            raise RequestError("pixel_values: missing; pass what the processor returns")
        tensors(
            type(self).__name__,
            qformer_input_ids=qformer_input_ids,
            qformer_attention_mask=qformer_attention_mask,
        )
        of_vision, of_qformer = traces or (Trace(), Trace())
        seen = self.look(
            self.clips(pixel_values),
            qformer_input_ids,
            qformer_attention_mask,
            interpolate=interpolate,
            vision_trace=of_vision,
            qformer_trace=of_qformer,
        )
        vision = outputs.BaseModelOutputWithPooling(
            last_hidden_state=seen.features, pooler_output=seen.pooled, **traced(of_vision)
        )
        qformer = outputs.BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=seen.states, pooler_output=seen.states[:, 0], **traced(of_qformer, cross=True)
        )
        return seen, vision, qformer

    def placed(
        self,
        seen: Seen,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        attention_mask: Tensor | None,
    ) -> tuple[Float[Tensor, "B S D"], Tensor | None]:
        """The prompt's embeddings with the visual tokens in them, and the mask that goes with it."""
        if input_ids is None and inputs_embeds is None:
            raise RequestError(
                "neither input_ids nor inputs_embeds; give the prompt that the processor returns"
            )
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
        tensors(type(self).__name__, **given)
        embeds = self.embedded(input_ids) if inputs_embeds is None else inputs_embeds
        whole = self.place(embeds, input_ids, seen)
        added = whole.shape[1] - embeds.shape[1]
        # In a folder from before placeholders the tokens stand in front.
        if added and attention_mask is not None:
            attention_mask = torch.nn.functional.pad(attention_mask, (added, 0), value=1)
        return whole, attention_mask

    def run(
        self, seen: Seen, input_ids: Tensor | None, inputs_embeds: Tensor | None, asked: Asked, decoder: dict
    ) -> ModelOutput:
        """The text model over the prompt with the visual tokens in their places."""
        embeds, mask = self.placed(seen, input_ids, inputs_embeds, asked.attention_mask)
        asked = replace(asked, attention_mask=mask)
        if self.config.text_config.is_encoder_decoder:
            return run_seq2seq(self.language_model, embeds, asked, **decoder)
        given = [name for name, value in decoder.items() if value is not None]
        if given:
            raise RequestError(
                f"{given[0]}: given, but the text model {self.config.text_config.model_type} "
                "is decoder-only; leave it out"
            )
        return run_causal(self.language_model, embeds, asked)

    def finished(
        self,
        loss: Tensor | None,
        logits: Tensor | None,
        vision: ModelOutput,
        qformer: ModelOutput,
        language: ModelOutput,
        return_dict: bool | None,
    ) -> ModelOutput | tuple:
        """The documented output object, or its tuple with the parts as tuples."""
        out = self.output_class(
            loss=loss,
            logits=logits,
            vision_outputs=vision,
            qformer_outputs=qformer,
            language_model_outputs=language,
        )
        return self.returned(out, return_dict)
