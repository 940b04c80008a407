"""What the families do differently at the front door: frames, pixels, placeholders. One small object each."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from watchword.errors import ConfigError, RequestError
from watchword.media.frames import Clip
from watchword.media.pixels import to_pixels
from watchword.media.spec import PixelSpec
from watchword.nn.merging import kept_count, merge_tokens
from watchword.pipeline.reuse import Sight
from watchword.pipeline.settings import pixel_spec
from watchword.prompt.segments import FORMATS, Media, Segment, Text, Turn, encode_segments, video_llava
from watchword.prompt.tokenizer import Tokenizer
from watchword.shapes import Float, Tensor


@dataclass(frozen=True)
class Words:
    """The tokenizers of a checkpoint; `qformer` reads the instruction once more for the Q-Former."""

    text: Tokenizer
    qformer: Tokenizer | None = None

    def spelled(self, index: int) -> str:
        """A token as the vocabulary spells it; models may have more ids than their tokenizer."""
        found = self.text.convert_ids_to_tokens(index)
        return f"<id {index}>" if found is None else found

    def name(self, index: int, field: str) -> str:
        """The token of a placeholder id from config.json."""
        name = self.text.convert_ids_to_tokens(index)
        if name is None:
            raise ConfigError(
                f"config.json: {field} {index} is no token of the tokenizer, which has {len(self.text)}; "
                "config and tokenizer do not belong together; download both from one place"
            )
        return name


@dataclass(frozen=True)
class Exchange:
    """One turn: a question, the pictures and clips that come with it, and the answer if there is one.

    `closed` puts an end token behind the answer, where the family knows turns. `visual_tokens` is that of
    `Options`.
    """

    question: str
    clips: tuple[Clip, ...] = ()
    answer: str | None = None
    closed: bool = False
    visual_tokens: float | None = None


Position = int | tuple[int, int]
"""What stands at a place of the prompt: a token id; or which medium, and which of its visual tokens."""


@dataclass(frozen=True)
class Encoded:
    """A prompt as ids.

    Attributes:
        ids: placeholders included, where the checkpoint has any.
        visual: how many visual tokens belong to it.
        length: positions it takes in the text model.
        positions: what stands at each of them.
    """

    ids: list[int]
    visual: int
    length: int
    positions: tuple[Position, ...]

    @property
    def counts(self) -> Counter[int]:
        """How many visual tokens each medium has."""
        return Counter(one[0] for one in self.positions if isinstance(one, tuple))


def merging(exchanges: Sequence[Exchange], wanted: float | None) -> list[Exchange]:
    """The turns with as many visual tokens as asked for."""
    return [replace(one, visual_tokens=wanted) for one in exchanges]


def encoded(ids: list[int], counts: Sequence[int], placeholders: Sequence[int | None]) -> Encoded:
    """Ids with each medium's visual tokens in the place of its placeholders; without any, in front."""
    front = [(at, k) for at, (count, index) in enumerate(zip(counts, placeholders)) if index is None
             for k in range(count)]  # fmt: skip
    inside = ((at, k) for at, (count, index) in enumerate(zip(counts, placeholders)) if index is not None
              for k in range(count))  # fmt: skip
    marks = {index for index in placeholders if index is not None}
    positions = (*front, *(next(inside) if one in marks else one for one in ids))
    return Encoded(ids, sum(counts), len(positions), positions)


@runtime_checkable
class Family(Protocol):
    """How one family sees.

    Attributes:
        frames: frames of a clip unless told otherwise.
        own_settings: whether generation_config.json counts.
        knows_turns: whether it was made for conversations.
    """

    frames: int
    own_settings: bool
    knows_turns: bool

    def specs(self, folder: Path) -> dict[str, PixelSpec]:
        """How each kind of medium becomes pixels."""
        ...

    def words(self, folder: Path) -> Words:
        """The tokenizers."""
        ...

    def encode(self, config: Any, words: Words, exchanges: Sequence[Exchange]) -> Encoded:
        """The prompt as ids: what was said, and the question that waits for its answer."""
        ...

    def shown(self, exchanges: Sequence[Exchange]) -> list[Clip]:
        """The pictures and clips that the prompt holds, in its order."""
        ...

    def follow(self, config: Any, words: Words, exchanges: Sequence[Exchange], answer: str) -> list[int]:
        """The ids of an answer behind such a prompt, without an end token."""
        ...

    def bare(self, words: Words) -> list[int]:
        """The prompt that asks nothing about nothing."""
        ...

    def instruction(self, words: Words, question: str) -> tuple[int, ...]:
        """What the eyes are told of the question; nothing where they see the same for every question."""
        ...

    def tokens(self, model: nn.Module, sight: Sight, instruction: tuple[int, ...]) -> Float[Tensor, "M D"]:
        """The visual tokens of a picture or clip; what is known already is not computed again."""
        ...


class Llava:
    """Video-LLaVA: one tower for pictures and one for clips, each with its placeholder."""

    frames = 8
    own_settings = True
    knows_turns = True
    defaults: Mapping[str, Any] = {
        "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224},
        "default_to_square": False,
    }  # fmt: skip

    def specs(self, folder: Path) -> dict[str, PixelSpec]:
        """Pictures by the reference's Pillow processor, clips by its tensor processor."""
        return {
            "picture": pixel_spec(folder, "pillow", self.defaults),
            "video": pixel_spec(folder, "tensor", self.defaults),
        }

    def words(self, folder: Path) -> Words:
        """One tokenizer."""
        return Words(Tokenizer.from_pretrained(folder))

    def encode(self, config: Any, words: Words, exchanges: Sequence[Exchange]) -> Encoded:
        """`USER: <video>\\nquestion ASSISTANT: answer USER: question ASSISTANT:`."""
        turns, counts, indices = self._turns(config, words, exchanges)
        ids = encode_segments(words.text, FORMATS[config.model_type](turns))
        return encoded(ids, counts, indices)

    def shown(self, exchanges: Sequence[Exchange]) -> list[Clip]:
        """All of them, each where it was shown."""
        return [clip for one in exchanges for clip in one.clips]

    def follow(self, config: Any, words: Words, exchanges: Sequence[Exchange], answer: str) -> list[int]:
        """As the answer stands in a conversation, behind `ASSISTANT: `."""
        turns, _, _ = self._turns(config, words, exchanges)
        last = Turn(turns[-1].question, turns[-1].media, answer)
        return behind(words.text, video_llava(turns), video_llava([*turns[:-1], last]), answer)

    def bare(self, words: Words) -> list[int]:
        """Two names, and nothing said."""
        return encode_segments(words.text, [Text("USER: ASSISTANT:")])

    def instruction(self, words: Words, question: str) -> tuple[int, ...]:
        """The towers see the same for every question."""
        return ()

    def tokens(self, model: nn.Module, sight: Sight, instruction: tuple[int, ...]) -> Float[Tensor, "M D"]:
        """Tower and projector, each kind its own tower."""

        def look() -> Float[Tensor, "F P D"]:
            if sight.clip.kind == "video":
                return model.video_tokens(sight.pixels()[None])
            return model.image_tokens(sight.pixels())

        parts = (model.video_tower, model.image_tower, model.multi_modal_projector)
        tokens = sight.kept("features", (), parts, lambda: look().flatten(0, 1))
        if sight.count is None or sight.count == len(tokens):
            return tokens
        return sight.kept("merged", (sight.count,), parts, lambda: merge_tokens(tokens, sight.count))

    def _turns(
        self, config: Any, words: Words, exchanges: Sequence[Exchange]
    ) -> tuple[list[Turn], list[int], list[int]]:
        """Turns with their placeholders, and of every medium its visual tokens and its placeholder id."""
        turns, counts, indices = [], [], []
        for exchange in exchanges:
            media = []
            for clip in exchange.clips:
                moving = clip.kind == "video"
                field = "video_token_index" if moving else "image_token_index"
                indices.append(getattr(config, field))
                full = config.visual_tokens(len(clip.frames) if moving else None)
                counts.append(kept_count(full, exchange.visual_tokens))
                media.append((words.name(indices[-1], field), counts[-1]))
            end = words.text.eos_token if exchange.closed else None
            turns.append(Turn(exchange.question, tuple(media), exchange.answer, end))
        return turns, counts, indices


class Blip:
    """InstructBLIP and InstructBlipVideo: the instruction goes to the Q-Former too; a picture is one frame.

    Published folders serve both classes, so both take pictures and clips here.
    """

    frames = 4
    own_settings = False
    knows_turns = False
    defaults: Mapping[str, Any] = {"size": {"height": 384, "width": 384}, "default_to_square": True}

    def __init__(self, *, picture_path: str) -> None:
        self.picture_path = picture_path

    def specs(self, folder: Path) -> dict[str, PixelSpec]:
        """InstructBlipVideo treats a picture as a clip of one frame, InstructBLIP as its processor does."""
        video = pixel_spec(folder, "tensor", self.defaults)
        picture = video if self.picture_path == "tensor" else pixel_spec(folder, "pillow", self.defaults)
        return {"picture": picture, "video": video}

    def words(self, folder: Path) -> Words:
        """The text model's tokenizer and the Q-Former's."""
        instruction = Tokenizer.from_pretrained(folder / "qformer_tokenizer")
        return Words(Tokenizer.from_pretrained(folder), instruction)

    def encode(self, config: Any, words: Words, exchanges: Sequence[Exchange]) -> Encoded:
        """Placeholders in front of all; none in folders from before there were any."""
        media, count, index = self._media(config, words, exchanges)
        ids = encode_segments(words.text, [*media, Text(dialogue(exchanges))])
        return encoded(ids, [count], [index])

    def shown(self, exchanges: Sequence[Exchange]) -> list[Clip]:
        """The one that came last: the family looks at one."""
        return [clip for one in exchanges for clip in one.clips][-1:]

    def follow(self, config: Any, words: Words, exchanges: Sequence[Exchange], answer: str) -> list[int]:
        """As a word behind the question; T5's decoder begins with it."""
        if config.text_config.is_encoder_decoder:
            return encode_segments(words.text, [Text(answer)], add_special_tokens=False)
        media, _, _ = self._media(config, words, exchanges)
        question = dialogue(exchanges)
        before, after = ([*media, Text(text)] for text in (question, f"{question} {answer}"))
        return behind(words.text, before, after, answer)

    def bare(self, words: Words) -> list[int]:
        """No words at all; what the tokenizer itself adds."""
        return encode_segments(words.text, [Text("")])

    def instruction(self, words: Words, question: str) -> tuple[int, ...]:
        """The question that waits for its answer, in the Q-Former's vocabulary."""
        return tuple(encode_segments(words.qformer, [Text(question)]))

    def tokens(self, model: nn.Module, sight: Sight, instruction: tuple[int, ...]) -> Float[Tensor, "M D"]:
        """Tower, and for every instruction Q-Former and projection."""

        def ask() -> Float[Tensor, "M D"]:
            tower = model.vision_model
            features = sight.kept("features", (), [tower], lambda: tower.features(sight.pixels())[0])
            ids = torch.tensor([instruction] * len(features), device=features.device)
            states = model.bridge(features, ids=ids)
            return model.language_projection(states[:, : model.query_tokens.shape[1]]).flatten(0, 1)

        parts = (model.vision_model, model.qformer, model.language_projection)
        return sight.kept("qformer", instruction, parts, ask)

    def _media(
        self, config: Any, words: Words, exchanges: Sequence[Exchange]
    ) -> tuple[list[Segment], int, int | None]:
        """The placeholders of the medium that came last, how many visual tokens it has, and their id."""
        clips = self.shown(exchanges)
        if not clips:
            raise RequestError(f"{config.model_type}: no picture or clip, and it answers about one; give one")
        field = config.placeholder
        index = getattr(config, field)
        count = config.visual_tokens(len(clips[0].frames))
        if exchanges[-1].visual_tokens is not None:
            raise RequestError(
                f"visual_tokens={exchanges[-1].visual_tokens}: {config.model_type} has {count} tokens, which "
                "its Q-Former has chosen for the question; expected video_llava; leave it out"
            )
        media = [] if index is None else [Media(words.name(index, field), count, outside=True)]
        return media, count, index


def dialogue(exchanges: Sequence[Exchange]) -> str:
    """The last question, and before it, if there was any, what was said: the original's form for dialogues.

    Source: `predict_class` of the original InstructBLIP, which writes `dialog history: ...` and a new line.
    """
    said = [f"Question: {one.question} Answer: {one.answer}" for one in exchanges[:-1]]
    question = exchanges[-1].question
    return f"dialog history: {' '.join(said)}\n{question}" if said else question


def behind(
    tokenizer: Tokenizer, before: Sequence[Segment], after: Sequence[Segment], answer: str
) -> list[int]:
    """The ids by which `after` is longer than `before`; those of the answer alone if they share pieces."""
    short, long = encode_segments(tokenizer, before), encode_segments(tokenizer, after)
    if long[: len(short)] == short and len(long) > len(short):
        return long[len(short) :]
    return encode_segments(tokenizer, [Text(answer)], add_special_tokens=False)


FAMILIES: dict[str, Family] = {
    "instructblip": Blip(picture_path="pillow"),
    "instructblipvideo": Blip(picture_path="tensor"),
    "video_llava": Llava(),
}
"""model_type → how it sees."""


def pixels_of(clip: Clip, specs: Mapping[str, PixelSpec]) -> Float[Tensor, "T 3 H W"]:
    """A clip's frames, or a picture as its only frame, as pixels."""
    return to_pixels(clip.frames, specs[clip.kind], channels="channels_last")
