"""Where the model looked for each word of its answer.

The answer is generated as always. Then prompt and answer go through the language model once more, and each
word's attention is followed back to the visual tokens. That pass is told the answer, it chooses nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float as Floats
from torch import nn

from watchword.errors import CapacityError, RequestError
from watchword.media.decode import read_media
from watchword.media.frames import Clip
from watchword.media.heat import Box, Heat
from watchword.media.pick import Pick, everything
from watchword.media.sheet import contact_sheet, save_sheet
from watchword.media.spec import PixelSpec
from watchword.nn.attention import Uncached
from watchword.nn.lora import using
from watchword.nn.trace import Trace
from watchword.pipeline.families import Encoded, Exchange, Words, pixels_of
from watchword.pipeline.preparing import chosen_adapter
from watchword.pipeline.wording import grouped
from watchword.prompt.segments import Text, encode_segments
from watchword.shapes import Float, Tensor

__all__ = ["Explained", "explain"]

MOST_WORDS = 8
"""Rows of a sheet, beside that of the whole answer."""

KEEPS = 0.7
"""What the residual stream keeps of a place in each layer. By benchmarks/explain_accuracy.py, on the embedded
model, following attention points at the object more often than the attention of any layers alone."""


@dataclass(frozen=True)
class Explained:
    """An answer and where the model looked for it.

    Attributes:
        question: what was asked.
        text: the answer.
        words: its words without punctuation.
        attention: how much of each word came from each patch of each frame, taken where the word was chosen:
            attention, heads averaged, followed through all layers of the language model (see `Reach`), and
            averaged over the word's tokens. A word's shares sum to less than 1: the rest came from text and
            from class tokens. For InstructBLIP it is what came from each query, times that query's look.
        looks: for InstructBLIP, the attention of each Q-Former query to each patch, averaged over heads and
            the later half of the layers that look; None for other families.
        clip: the frames.
        box: the part of a frame that the patches cover: left, top, right, bottom as fractions of the frame.
            What lies outside was cropped away before the model saw it.
        model: which checkpoint answered.
    """

    question: str
    text: str
    words: tuple[str, ...]
    attention: Floats[np.ndarray, "N T h w"]
    looks: Floats[np.ndarray, "T Q h w"] | None
    clip: Clip
    box: Box
    model: str

    def heats(self, most: int = MOST_WORDS) -> list[Heat]:
        """Rows for a sheet: the whole answer, then the words that look most, in the answer's order."""
        shares = self.attention.sum(axis=(1, 2, 3))
        chosen = sorted(np.argsort(-shares, kind="stable")[:most])
        rows = [Heat(self.words[i], self.attention[i], f"{shares[i]:.0%}") for i in chosen]
        if len(self.words) > 1:
            rows.insert(0, Heat("all words", self.attention.mean(axis=0), f"{shares.mean():.0%}"))
        return rows

    def sheet(self, most: int = MOST_WORDS) -> Any:
        """The frames with a row of heat maps for each word, as a Pillow image.

        Args:
            most: how many words get a row; of a longer answer those that look most at the frames.
        """
        left_out = len(self.words) - most
        return contact_sheet(
            self.clip,
            title=self.question,
            caption=self.text or "(an empty answer)",
            heats=self.heats(most),
            box=self.box,
            footer=f"Where {self.model} looked for each word of its answer. Percent: how much of it "
            "came from the frames. Each row has its own scale; its strongest patch is outlined."
            f"{f' Left out: {left_out} words that look less.' if left_out > 0 else ''}",
        )

    def save(self, path: Any, most: int = MOST_WORDS) -> None:
        """Write the sheet to a file; its name says which kind of picture."""
        save_sheet(self.sheet(most), path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        times = self.clip.times
        return {
            "question": self.question,
            "text": self.text,
            "words": list(self.words),
            "frames": list(self.clip.indices),
            "times": None if times is None else list(times),
            "box": list(self.box),
            "model": self.model,
            "shape": ["words", "frames", "rows", "columns"],
            "attention": self.attention.astype(float).round(6).tolist(),
        }


def explain(
    pipeline: Any, media: object, question: str, *, frames: int | Pick | None = None, **settings: Any
) -> Explained:
    """Ask, and say where the model looked for each word of the answer.

    Args:
        pipeline: a loaded checkpoint.
        media: a picture or clip, as for `Pipeline.ask`.
        question: plain words.
        frames: how many frames of a clip, or a choice from `media.pick`.
        **settings: as for `Pipeline.ask`.

    Raises:
        MediaError: the medium cannot be read.
        RequestError: no medium, no question, or settings that `ask` refuses.
        CapacityError: more than the model has positions for, or than memory holds.
    """
    if media is None:
        raise RequestError("explain: got no picture or clip; give one, and a question about it")
    check_all_tokens(settings)
    clip = read_media(media, pipeline.pick(frames), policy=pipeline.policy)
    picture = clip.kind == "picture"
    given = {} if picture else {"frames": everything()}
    answer = pipeline.ask(clip.frames[0] if picture else clip.frames, question, **given, **settings)
    try:
        with using(chosen_adapter(pipeline.model, settings.get("adapter"))):
            words, attention, looks = traced(pipeline, clip, question, answer.text)
    except torch.OutOfMemoryError as error:
        raise CapacityError(
            f"explain: out of memory on {pipeline.device} at {len(clip.frames)} frames; ask for fewer, or "
            "with dtype='bfloat16'"
        ) from error
    return Explained(
        question=question,
        text=answer.text,
        words=words,
        attention=attention.cpu().numpy(),
        looks=None if looks is None else looks.cpu().numpy(),
        clip=clip,
        box=seen_part(pipeline.specs[clip.kind], *clip.frames.shape[1:3]),
        model=pipeline.name,
    )


def check_all_tokens(settings: Mapping[str, Any]) -> None:
    """Refuse merged visual tokens: they have no place in the picture any more."""
    options = settings.get("options")
    wanted = settings.get("visual_tokens", options and options.visual_tokens)
    if wanted is not None:
        raise RequestError(
            f"explain: visual_tokens={wanted}, but merged tokens have no place in a frame; leave it out"
        )


@torch.no_grad()
def traced(
    pipeline: Any, clip: Clip, question: str, answer: str
) -> tuple[tuple[str, ...], Float[Tensor, "N T h w"], Float[Tensor, "T Q h w"] | None]:
    """The words of an answer, how much of each came from each patch, and the Q-Former's looks."""
    model, family, words = pipeline.model, pipeline.family, pipeline.words
    exchanges = [Exchange(question, (clip,))]
    encoded = family.encode(model.config, words, exchanges)
    ids = family.follow(model.config, words, exchanges, answer) if answer else []
    columns = [place for place, one in enumerate(encoded.positions) if isinstance(one, tuple)]
    pixels = pixels_of(clip, pipeline.specs).to(pipeline.device)
    embeds, looks = prompt_embeds(model, words, encoded, question, clip, pixels)
    start = pipeline.settings.get("decoder_start_token_id", pipeline.settings.get("bos_token_id"))
    side = model.config.vision_config.patch_size
    grid = (pixels.shape[-2] // side, pixels.shape[-1] // side)
    maps = to_patches(look_back(model, embeds, ids, columns, start), len(clip.frames), grid, looks)
    said = grouped(words.text, ids)
    rows = [maps[list(places)].mean(dim=0) for _, places in said]
    attention = torch.stack(rows) if rows else maps[:0]
    return tuple(word for word, _ in said), attention, looks if looks is None else by_patch(looks, grid)


def prompt_embeds(
    model: nn.Module,
    words: Words,
    encoded: Encoded,
    question: str,
    clip: Clip,
    pixels: Float[Tensor, "T 3 H W"],
) -> tuple[Float[Tensor, "1 L D"], Float[Tensor, "T Q P"] | None]:
    """The prompt with the medium in its place; and how much each query looks at each feature of its frame,
    averaged over heads and the later half of the layers that look."""
    ids = torch.tensor([encoded.ids], device=pixels.device)
    if words.qformer is None:
        medium = {"clips": pixels[None]} if clip.kind == "video" else {"images": pixels}
        return model.embed(ids, **medium), None
    instruction = torch.tensor([encode_segments(words.qformer, [Text(question)])], device=pixels.device)
    trace = Trace.asked(False, True)
    seen = model.look(pixels[None], instruction, qformer_trace=trace)
    layers = trace.cross_attentions[len(trace.cross_attentions) // 2 :]
    looks = torch.stack([weights.float().mean(dim=1) for weights in layers]).mean(dim=0)
    return model.place(model.language_model.embed(ids), ids, seen), looks


class Reach(Trace):
    """Follows attention back through all layers of a stack: attention rollout.

    A layer leaves `KEEPS` of what a place holds as it is, which is the residual stream, and takes the rest
    from the places it attends to, heads averaged. Only one layer's weights are held at a time.

    Args:
        share: how much of each row comes from each visual token before the first layer.
        memory: the same of the places that cross-attention looks at.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".
    """

    def __init__(self, share: Float[Tensor, "L M"], memory: Float[Tensor, "S M"] | None = None) -> None:
        super().__init__()
        self.share, self.memory = share, memory

    @property
    def wants_weights(self) -> bool:
        """Of every layer."""
        return True

    def weights(self, w: Tensor | None, *, cross: bool = False) -> None:
        """Called by every layer."""
        source = self.memory if cross else self.share
        if w is not None and source is not None:
            drawn = w[0].mean(dim=0, dtype=torch.float32) @ source
            self.share = KEEPS * self.share + (1 - KEEPS) * drawn


def look_back(
    model: nn.Module,
    embeds: Float[Tensor, "1 L D"],
    ids: Sequence[int],
    columns: Sequence[int],
    start: int | None = None,
) -> Float[Tensor, "n M"]:
    """How much of each token of an answer came from each visual token, where it was chosen.

    That is one place before it: there the model decided; where a token itself stands, it looks for what comes
    next.

    Args:
        embeds: the prompt.
        ids: the answer's.
        columns: places of the visual tokens.
        start: what an encoder-decoder model's answers begin with.
    """
    text = model.language_model
    share = torch.zeros(embeds.shape[1] + len(ids), len(columns), device=embeds.device)
    share[list(columns), range(len(columns))] = 1
    if not ids:
        return share[:0]
    if model.config.text_config.is_encoder_decoder:
        read = Reach(share[: embeds.shape[1]])
        states = text.encode(embeds, trace=read)
        given = text.embed(torch.tensor([[start, *ids[:-1]]], device=embeds.device))
        trace = Reach(share.new_zeros(len(ids), len(columns)), read.share)
        text.hidden(given, states=states, cache=Uncached(), trace=trace)
    else:
        said = torch.tensor([ids[:-1]], dtype=torch.long, device=embeds.device)
        embeds = torch.cat((embeds, text.embed(said).to(embeds.dtype)), dim=1)
        trace = Reach(share[: embeds.shape[1]])
        positions = text.forward_positions(None, 0, embeds.shape[1], embeds.device)
        text.hidden(embeds, positions=positions, cache=Uncached(), trace=trace)
    return trace.share[-len(ids) :]


def to_patches(
    shares: Float[Tensor, "n M"], frames: int, grid: tuple[int, int], looks: Float[Tensor, "T Q P"] | None
) -> Float[Tensor, "n T h w"]:
    """From visual tokens to patches of frames: through the queries where there are any."""
    by_frame = shares.unflatten(1, (frames, -1))
    if looks is not None:
        by_frame = torch.einsum("ntq,tqp->ntp", by_frame, looks)
    return by_patch(by_frame, grid)


def by_patch(features: Float[Tensor, "... P"], grid: tuple[int, int]) -> Float[Tensor, "... h w"]:
    """Features in rows and columns; the class token, which comes first if it is there, is left out."""
    return features[..., -grid[0] * grid[1] :].unflatten(-1, grid)


def seen_part(spec: PixelSpec, height: int, width: int) -> Box:
    """The part of a frame that reaches the model, as fractions of the frame; beyond 0 to 1 is padding."""
    tall, wide = spec.size.target(height, width) if spec.do_resize and spec.size else (height, width)
    if not spec.do_center_crop or spec.crop_size is None:
        return 0.0, 0.0, 1.0, 1.0
    crop = spec.crop_size.exact("crop_size")
    left, top = (1 - crop[1] / wide) / 2, (1 - crop[0] / tall) / 2
    return left, top, 1 - left, 1 - top
