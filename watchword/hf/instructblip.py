"""InstructBLIP and InstructBlipVideo under their documented names: signatures and outputs, never arithmetic.

What their classes share is in `instructblip_base`.
"""

import torch

from watchword.config import InstructBlipConfig, InstructBlipVideoConfig
from watchword.errors import RequestError
from watchword.hf import outputs
from watchword.hf.arguments import own_arguments
from watchword.hf.generation import GenerationConfig, read_call, run_generate
from watchword.hf.instructblip_base import InstructBlipBase
from watchword.hf.language import IGNORED, Asked, causal_loss
from watchword.hf.outputs import ModelOutput
from watchword.hf.pretrained import known_only
from watchword.models.instructblip import Seen
from watchword.nn.trace import Trace
from watchword.shapes import Float, Int, Tensor


class Headless(InstructBlipBase):
    """The base models: text states instead of scores."""

    head = False

    def forward(
        self,
        pixel_values: Tensor,
        qformer_input_ids: Tensor,
        qformer_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
        use_cache: bool | None = None,
        **kwargs,
    ) -> ModelOutput | tuple:
        """States of all three parts: `vision_outputs`, `qformer_outputs`, `language_model_outputs`.

        Raises:
            RequestError: placeholders that do not match the media, sizes that do not fit, missing inputs.
        """
        known_only(self, kwargs)
        weights, states = self.wanted(output_attentions, output_hidden_states)
        seen, vision, qformer = self.see_documented(
            pixel_values,
            qformer_input_ids,
            qformer_attention_mask,
            interpolate_pos_encoding,
            (Trace.asked(states, weights), Trace.asked(states, weights)),
        )
        asked = Asked(
            attention_mask, use_cache=use_cache, output_attentions=weights, output_hidden_states=states
        )
        decoder = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        language = self.run(seen, input_ids, inputs_embeds, asked, decoder)
        return self.finished(None, None, vision, qformer, language, return_dict)


class Answering(InstructBlipBase):
    """The models with a head: scores, loss, answers."""

    def forward(
        self,
        pixel_values: Tensor,
        qformer_input_ids: Tensor,
        qformer_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        interpolate_pos_encoding: bool = False,
        use_cache: bool | None = None,
        **kwargs,
    ) -> ModelOutput | tuple:
        """Scores of the next token at each position, and the loss when labels are given.

        Attention weights and hidden states asked for are those of the language model, as in the reference.

        Args:
            labels: for a decoder-only text model one label per position, placeholders included (-100 where no
                loss is wanted); for T5 the answer's ids.
            **kwargs: `num_items_in_batch`, the divisor of the loss under gradient accumulation.

        Raises:
            RequestError: placeholders that do not match the media, sizes that do not fit, missing inputs.
        """
        items = known_only(self, kwargs, "num_items_in_batch")
        weights, states = self.wanted(output_attentions, output_hidden_states)
        seen, vision, qformer = self.see_documented(
            pixel_values, qformer_input_ids, qformer_attention_mask, interpolate_pos_encoding
        )
        asked = Asked(
            attention_mask, use_cache=use_cache, output_attentions=weights, output_hidden_states=states
        )
        decoder = {"decoder_input_ids": decoder_input_ids, "decoder_attention_mask": decoder_attention_mask}
        if self.config.text_config.is_encoder_decoder:
            decoder |= {"labels": labels, **items}
        language = self.run(seen, input_ids, inputs_embeds, asked, decoder)
        loss = getattr(language, "loss", None)
        if labels is not None and loss is None:
            in_front = language.logits.shape[1] - labels.shape[1] if self.medium[1] is None else 0
            labels = torch.nn.functional.pad(labels, (in_front, 0), value=IGNORED)
            loss = causal_loss(language.logits, labels, **items)
        return self.finished(loss, language.logits, vision, qformer, language, return_dict)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor,
        qformer_input_ids: Tensor | None = None,
        qformer_attention_mask: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **generate_kwargs,
    ) -> Tensor | ModelOutput:
        """Answers as ids: prompt and answer for decoder-only text models, decoder ids for T5.

        Settings that are not given come from `text_config`, not from the folder's generation_config.json: so
        does the reference, whose `generate` is the inner language model's.

        Raises:
            RequestError: placeholders that do not match the media; a `max_length` not above the prompt's; an
                option that is not supported, by name.
        """
        text = self.config.text_config
        call = read_call(
            GenerationConfig.from_model_config(text),
            generate_kwargs,
            own=own_arguments(type(self).generate),
            is_encoder_decoder=text.is_encoder_decoder,
        )
        seen, _, _ = self.see_documented(
            pixel_values, qformer_input_ids, qformer_attention_mask, interpolate_pos_encoding
        )
        if input_ids is None and inputs_embeds is None:
            input_ids = self.bare_prompt(seen)
        embeds, attention_mask = self.placed(seen, input_ids, inputs_embeds, attention_mask)
        # Without placeholders in the prompt its ids do not cover the visual tokens: only new ids come back.
        shown = None if self.medium[1] is None else input_ids
        return run_generate(
            self.language_model,
            embeds=embeds,
            attention_mask=attention_mask,
            input_ids=shown,
            call=call,
            is_encoder_decoder=text.is_encoder_decoder,
            max_positions=getattr(text, "max_position_embeddings", None),
        )

    def bare_prompt(self, seen: Seen) -> Int[Tensor, "B L"]:
        """Placeholders and the text model's first token: what a caption starts from."""
        _, index = self.medium
        bos = self.config.text_config.bos_token_id
        counts = {frames * seen.tokens.shape[1] for frames in seen.frames}
        if bos is None or len(counts) > 1:
            raise RequestError(
                "generate: no prompt was given, and none can be made: "
                + (
                    "text_config has no bos_token_id"
                    if bos is None
                    else f"the clips need {sorted(counts)} placeholders"
                )
                + "; give input_ids as the processor returns them"
            )
        marks = [] if index is None else [index] * counts.pop()
        return torch.tensor([[*marks, bos]] * len(seen.frames), device=seen.tokens.device)


class InstructBlipModel(Headless):
    """InstructBLIP without its language-model head."""

    config_class = InstructBlipConfig


class InstructBlipForConditionalGeneration(Answering):
    """InstructBLIP: answers about pictures."""

    config_class = InstructBlipConfig

    def get_image_features(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        qformer_input_ids: Int[Tensor, "B L"],
        qformer_attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool = False,
    ) -> Float[Tensor, "B Q D"] | tuple:
        """The visual tokens of each picture; with `return_dict` also the vision and Q-Former outputs."""
        seen, vision, qformer = self.see_documented(
            pixel_values, qformer_input_ids, qformer_attention_mask, interpolate_pos_encoding
        )
        tokens = seen.rows()
        return (tokens, vision, qformer) if return_dict else tokens


class InstructBlipVideoModel(Headless):
    """InstructBlipVideo without its language-model head."""

    config_class = InstructBlipVideoConfig
    output_class = outputs.InstructBlipVideoForConditionalGenerationModelOutput


class InstructBlipVideoForConditionalGeneration(Answering):
    """InstructBlipVideo: answers about clips, four frames each unless the processor is given others."""

    config_class = InstructBlipVideoConfig
    output_class = outputs.InstructBlipVideoForConditionalGenerationModelOutput

    def get_video_features(
        self,
        pixel_values: Float[Tensor, "B T 3 H W"],
        qformer_input_ids: Int[Tensor, "B L"],
        qformer_attention_mask: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool = False,
    ) -> Float[Tensor, "B M D"] | tuple:
        """The visual tokens of each clip, frame after frame; with `return_dict` the parts' outputs too."""
        seen, vision, qformer = self.see_documented(
            pixel_values, qformer_input_ids, qformer_attention_mask, interpolate_pos_encoding
        )
        tokens = seen.rows()
        return (tokens, vision, qformer) if return_dict else tokens
