"""InstructBLIP and InstructBlipVideo: tower, Q-Former, language model. A picture is a video of one frame."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from watchword.config import InstructBlipConfig, InstructBlipVideoConfig
from watchword.errors import ConfigError, RequestError
from watchword.models.eva import EvaVision
from watchword.models.language import language_model
from watchword.models.qformer import QFormer
from watchword.models.splice import placeholders, splice
from watchword.nn.trace import Trace
from watchword.shapes import Bool, Float, Int, Tensor

Clips = Float[Tensor, "N T C H W"] | Sequence[Tensor]
"""A clip per instruction: a tensor, or, where lengths differ, a list of T 3 H W (or 1 T 3 H W) tensors."""


@dataclass(frozen=True)
class Seen:
    """What the model made of all frames, frame after frame, row after row.

    Attributes:
        tokens: what the language model gets: Q tokens per frame.
        features: the vision tower's, normed.
        pooled: the tower's class token, normed twice.
        states: the Q-Former's final rows; queries first, then the instruction.
        frames: how many frames each row has.
    """

    tokens: Float[Tensor, "F Q D"]
    features: Float[Tensor, "F P C"]
    pooled: Float[Tensor, "F C"]
    states: Float[Tensor, "F N E"]
    frames: tuple[int, ...]

    def rows(self) -> Float[Tensor, "N M D"]:
        """The tokens of each row side by side, frame 0's first.

        Raises:
            RequestError: rows of different numbers of frames.
        """
        if len(set(self.frames)) > 1:
            raise RequestError(
                f"pixel_values: clips of {list(self.frames)} frames; expected clips of one length here; "
                "pass them one by one"
            )
        return self.tokens.unflatten(0, (len(self.frames), -1)).flatten(1, 2)


class InstructBlip(nn.Module):
    """Attribute names are the published checkpoint's names. Verbs only; the documented `forward` is in `hf`.

    Args:
        config: `InstructBlipConfig` or `InstructBlipVideoConfig`.
        head: False leaves the language-model head out (the documented base models).
        backend: attention backend of the tower and the language model, a key of `nn.attention.BACKENDS`.

    Raises:
        ConfigError: an OPT whose embeddings are narrower than its layers.
    """

    def __init__(
        self,
        config: InstructBlipConfig | InstructBlipVideoConfig,
        *,
        head: bool = True,
        backend: str = "sdpa",
    ) -> None:
        super().__init__()
        text, width = config.text_config, config.qformer_config.hidden_size
        if getattr(text, "word_embed_proj_dim", text.hidden_size) != text.hidden_size:
            raise ConfigError(
                f"text_config: word_embed_proj_dim {text.word_embed_proj_dim} differs from hidden_size "
                f"{text.hidden_size}; visual tokens need embeddings of the layers' width, so such an OPT "
                "works as a text model alone, not inside InstructBLIP"
            )
        self.config = config
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, width))
        self.vision_model = EvaVision(config.vision_config, backend=backend)
        self.qformer = QFormer(config.qformer_config)
        self.language_projection = nn.Linear(width, text.hidden_size)
        self.language_model = language_model(text, head=head, backend=backend)

    @property
    def medium(self) -> tuple[str, int | None]:
        """What a placeholder stands for, and its id: None in folders from before there were placeholders."""
        field = self.config.placeholder
        return field.removesuffix("_token_index"), getattr(self.config, field)

    def bridge(
        self,
        features: Float[Tensor, "F P C"],
        *,
        ids: Int[Tensor, "F L"] | None,
        mask: Tensor | None = None,
        trace: Trace | None = None,
    ) -> Float[Tensor, "F N E"]:
        """The Q-Former over every frame: the learned queries and the instruction, looking at the features.

        Args:
            ids: the instruction in the Q-Former's vocabulary, a row for each frame; None asks without one.
            mask: 1 at the words that count; None: all.
        """
        queries = self.query_tokens.expand(len(features), -1, -1)
        if mask is not None:
            mask = torch.cat((mask.new_ones(queries.shape[:2]), mask), dim=1)
        return self.qformer.states(queries, features, ids=ids, mask=mask, trace=trace)

    def look(
        self,
        clips: Clips,
        qformer_ids: Int[Tensor, "N l"] | None,
        qformer_mask: Tensor | None = None,
        *,
        interpolate: bool = False,
        vision_trace: Trace | None = None,
        qformer_trace: Trace | None = None,
    ) -> Seen:
        """From pixels and instruction to visual tokens, with everything on the way.

        Args:
            clips: normalised pixels, a clip for each instruction.
            qformer_ids: the instructions, each read again for every frame of its clip.
            qformer_mask: 1 at its words, 0 at padding.
            interpolate: accept frames of another size than the config's.
            vision_trace, qformer_trace: collect hidden states and attentions.

        Raises:
            RequestError: clips and instructions of different number; frames that do not fit; pixels that are
                no numbers; an instruction that is too long.

        Source: get_image_features and get_video_features, in the reference.
        """
        pixels, frames = all_frames(clips)
        ids, mask = (
            each if each is None else per_frame(each, frames, name)
            for each, name in ((qformer_ids, "qformer_input_ids"), (qformer_mask, "qformer_attention_mask"))
        )
        features, pooled = self.vision_model.features(pixels, interpolate=interpolate, trace=vision_trace)
        states = self.bridge(features, ids=ids, mask=mask, trace=qformer_trace)
        tokens = self.language_projection(states[:, : self.query_tokens.shape[1]])
        return Seen(tokens, features, pooled, states, frames)

    def media_tokens(
        self,
        clips: Clips,
        qformer_ids: Int[Tensor, "N l"] | None,
        qformer_mask: Tensor | None = None,
        *,
        interpolate: bool = False,
    ) -> Float[Tensor, "N M D"]:
        """The visual tokens alone, a row for each clip: T·Q of them, frame 0's first."""
        return self.look(clips, qformer_ids, qformer_mask, interpolate=interpolate).rows()

    def embed(
        self,
        ids: Int[Tensor, "B L"],
        clips: Clips,
        qformer_ids: Int[Tensor, "N l"] | None,
        qformer_mask: Tensor | None = None,
        *,
        interpolate: bool = False,
    ) -> Float[Tensor, "B S D"]:
        """Text embeddings with the visual tokens in their places."""
        seen = self.look(clips, qformer_ids, qformer_mask, interpolate=interpolate)
        return self.place(self.language_model.embed(ids), ids, seen)

    def marks(self, ids: Int[Tensor, "B L"] | None, embeds: Float[Tensor, "B L D"]) -> Bool[Tensor, "B L"]:
        """Where placeholders stand; nowhere in models that have none."""
        _, index = self.medium
        if index is None:
            return torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        return placeholders(ids, embeds, index, self.language_model.get_input_embeddings())

    def place(
        self, embeds: Float[Tensor, "B L D"], ids: Int[Tensor, "B L"] | None, seen: Seen
    ) -> Float[Tensor, "B S D"]:
        """Visual tokens in the places of the placeholders; in models without any, in front of the text.

        In front (the config has no placeholder id) the result is longer than the text, and masks and labels
        have to grow by as much: it equals what newer processors write out as placeholders.

        Raises:
            RequestError: a row whose placeholders are not as many as its visual tokens; without placeholders,
                rows and clips of different number.
        """
        what, index = self.medium
        if index is None:
            if len(embeds) != len(seen.frames):
                raise RequestError(
                    f"pixel_values: {len(seen.frames)} pictures or clips for {len(embeds)} rows of text; "
                    "a model without placeholders (its config has no token index) needs one for each row"
                )
            return torch.cat((seen.rows().to(embeds.dtype), embeds), dim=1)
        marks = self.marks(ids, embeds)
        found = marks.sum(dim=1).tolist()
        wanted = [frames * seen.tokens.shape[1] for frames in seen.frames]
        if len(found) == len(wanted) and found != wanted:
            raise RequestError(
                f"{what} features and {what} tokens do not match: tokens per row {found}, features "
                f"per row {wanted}; each frame needs {seen.tokens.shape[1]} placeholders (id {index}), as "
                "the processor that belongs to this model writes them"
            )
        return splice(embeds, seen.tokens.flatten(0, 1), marks, what=what)


def all_frames(clips: Tensor | Sequence[Tensor]) -> tuple[Float[Tensor, "F C H W"], tuple[int, ...]]:
    """All frames of all rows, one after the other, and how many each row has.

    Raises:
        RequestError: a tensor without a frame axis, a row without frames, or frames of different sizes.
    """
    if isinstance(clips, Tensor) and clips.ndim == 5 and clips.shape[1]:
        return clips.flatten(0, 1), (clips.shape[1],) * len(clips)
    rows = [] if isinstance(clips, Tensor) else [clip.flatten(0, -4) for clip in clips if clip.ndim in (4, 5)]
    whole = [len(row) for row in rows]
    if not rows or len(rows) != len(clips) or not all(whole):
        got = [tuple(clip.shape) for clip in clips] if not isinstance(clips, Tensor) else tuple(clips.shape)
        raise RequestError(
            f"pixel_values: got shape {got}; expected (clips, frames, 3, height, width), or a list with "
            "(frames, 3, height, width) for each row"
        )
    sizes = sorted({tuple(row.shape[1:]) for row in rows})
    if len(sizes) > 1:
        raise RequestError(f"pixel_values: frames of different sizes {sizes}; resize them to one size")
    return torch.cat(rows), tuple(whole)


def per_frame(words: Tensor, frames: tuple[int, ...], name: str) -> Tensor:
    """Each row's instruction once for each of its frames: row 0's copies first, not row after row.

    Raises:
        RequestError: not one instruction per clip.
    """
    if len(words) != len(frames):
        raise RequestError(
            f"{name}: {len(words)} rows for {len(frames)} pictures or clips; give each its own instruction"
        )
    return words.repeat_interleave(torch.tensor(frames, device=words.device), dim=0)


def initialise(model: InstructBlip) -> None:
    """Fresh values for what belongs to the family itself: queries 0, the projection normal.

    Source: InstructBlipPreTrainedModel._init_weights, in the reference.
    """
    nn.init.zeros_(model.query_tokens)
    nn.init.normal_(model.language_projection.weight, std=model.config.initializer_range)
    nn.init.zeros_(model.language_projection.bias)
