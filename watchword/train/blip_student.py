"""The embedded InstructBLIP models while they learn: config, first weights, losses.

One network learns both: a picture is a clip of one frame.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import InstructBlipVideoConfig
from watchword.hf.instructblip import InstructBlipVideoForConditionalGeneration
from watchword.hf.language import IGNORED
from watchword.models.llama import Llama
from watchword.models.qformer import QFormerLayer
from watchword.nn.trace import Trace
from watchword.shapes import Float, Tensor
from watchword.train.dense import MotionHeads, OutlineHead, SightHeads
from watchword.train.lessons import Batch, Look
from watchword.train.mentions import MentionHeads
from watchword.train.packing import Pack, Packed, answered
from watchword.train.pupil import Pupil
from watchword.train.readings import ReadingLessons, Readings

OUTLINE_LAYER, MOTION_LAYER = 1, 2
"""The tower's layer whose states are taught outlines, the language model's that are taught what has
happened."""
WEIGHTS = {"outline": 3.0, "sight": 0.3, "told": 0.5, "motion": 0.5, "mention": 0.5, "coming": 0.5}
"""Of the temporary lessons beside the answers' loss; while there are no questions what is seen counts in
full."""


def blip_config(look: Look) -> InstructBlipVideoConfig:
    """InstructBlipVideo at 1/4000 of its size: one query for the whole of a frame and one for each patch."""
    ids = look.ids
    special = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["<pad>"]}
    return InstructBlipVideoConfig(
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 320,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "image_size": look.side,
            "patch_size": look.patch,
            "initializer_range": 0.02,
        },
        qformer_config={
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "cross_attention_frequency": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": 128,
            "vocab_size": len(ids),
            "pad_token_id": ids["<pad>"],
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "vocab_size": len(ids),
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            **special,
        },
        num_query_tokens=look.grid**2 + 1,
        video_token_index=ids["<video>"],
    )


class BlipStudent(Pupil):
    """The model and its temporary heads: on the tower, on the queries, and on the language model."""

    lessons = ReadingLessons

    def __init__(self, look: Look) -> None:
        super().__init__()
        config = blip_config(look)
        self.model = InstructBlipVideoForConditionalGeneration(config)
        begin(self.model, look.ids)
        width = config.vision_config.hidden_size
        self.outline = OutlineHead(width)
        self.sight = SightHeads(width)
        self.told = SightHeads(config.qformer_config.hidden_size)
        self.motion = MotionHeads(config.text_config.hidden_size)
        self.mention = MentionHeads(config.text_config.hidden_size)
        self.coming = MentionHeads(config.text_config.hidden_size, does=False)

    def seeing(self) -> tuple[nn.Module, ...]:
        """What learns at the tower's rate."""
        return self.model.vision_model, self.outline, self.sight

    def features(
        self, pixels: Float[Tensor, "B T 3 h w"]
    ) -> tuple[Float[Tensor, "B T P D"], Float[Tensor, "B T P D"]]:
        """The tower's states after `OUTLINE_LAYER`, and its features; class token first."""
        states: list[Tensor] = []
        late, _ = self.model.vision_model.features(pixels.flatten(0, 1), trace=Trace(hidden_states=states))
        return torch.unflatten(states[OUTLINE_LAYER], 0, pixels.shape[:2]), torch.unflatten(
            late, 0, pixels.shape[:2]
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What to minimise, and how well each thing goes."""
        early, features = self.features(batch.pixels)
        outline = self.outline(early, batch.target)
        sight, seen = self.sight(features, batch.target)
        seeing = WEIGHTS["outline"] * outline + sight
        report = {"outline": float(outline.detach()), **seen}
        if batch.pack is None:
            states = self.model.bridge(features.flatten(0, 1), ids=None)
            told, known = self.told(torch.unflatten(states, 0, features.shape[:2]), batch.target)
            return seeing + told, report | prefixed(known, "told")
        pack = batch.pack
        assert isinstance(pack, Readings)
        queries = self.read(pack, features)
        hidden, states = self.answers(pack, queries)
        clips = pack.scenes()
        first = torch.tensor([clips.index(clip) for clip in range(len(features))], device=features.device)
        told, known = self.told(queries[first], batch.target)
        answers, right = scored(reader(self.model), hidden, pack)
        loss = answers + WEIGHTS["sight"] * seeing + WEIGHTS["told"] * told
        kind = "video" if batch.is_video else "picture"
        report |= prefixed(known, "told")
        report |= {f"{kind}_loss": float(answers.detach()), f"{kind}_right": right}
        if batch.mentions is not None:
            early, late = states[MOTION_LAYER], states[MOTION_LAYER + 1]
            mention, known = self.mention(early, late, batch.mentions, moving=batch.is_video)
            loss, report = loss + WEIGHTS["mention"] * mention, report | prefixed(known, "named")
            coming, known = self.coming(late, late, batch.mentions.coming(), moving=batch.is_video)
            loss, report = loss + WEIGHTS["coming"] * coming, report | prefixed(known, "coming")
        if batch.is_video:
            middle = states[MOTION_LAYER][:, : pack.cuts[0] - 1]
            middle = torch.unflatten(middle, 1, queries.shape[1:3])
            motion, moved = self.motion(middle[first], batch.target)
            loss, report = loss + WEIGHTS["motion"] * motion, report | moved
        return loss, report

    def read(self, pack: Readings, features: Float[Tensor, "C T P D"]) -> Float[Tensor, "B T Q D"]:
        """What the Q-Former makes of each row's clip, having read its instruction; frame by frame."""
        seen = features[pack.clip]
        frames = seen.shape[1]
        told, mask = (each.repeat_interleave(frames, dim=0) for each in (pack.told, pack.told_mask))
        states = self.model.bridge(seen.flatten(0, 1), ids=told, mask=mask)
        queries = states[:, : self.model.config.num_query_tokens]
        return torch.unflatten(queries, 0, (-1, frames))

    def answers(
        self, pack: Readings, queries: Float[Tensor, "B T Q D"]
    ) -> tuple[Float[Tensor, "B L H"], list[Float[Tensor, "B L H"]]]:
        """The language model's last states, and those after each layer, its embeddings first.

        Learning, its products are in bfloat16, for which processors have units; the rest gains nothing by it.
        """
        tokens = self.model.language_projection(queries).flatten(1, 2)
        seen = tokens.shape[1]
        text = reader(self.model)
        embeds = torch.cat((tokens, text.embed(pack.ids[:, seen:])), dim=1)
        states: list[Tensor] = []
        with torch.autocast(embeds.device.type, torch.bfloat16, enabled=self.training):
            hidden = text.hidden(
                embeds,
                positions=pack.positions,
                cache=Packed(pack.mask(), pack.cuts),
                trace=Trace(hidden_states=states),
            )
        return hidden.float(), [state.float() for state in states]


def prefixed(values: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Figures under a longer name."""
    return {f"{name}_{key}": value for key, value in values.items()}


def scored(text: Llama, hidden: Float[Tensor, "B L D"], pack: Pack) -> tuple[Tensor, float]:
    """The loss of the answers, and the share of questions whose answer is right."""
    wanted = pack.labels[:, 1:] != IGNORED
    logits, labels = text.logits(hidden[:, :-1][wanted]).float(), pack.labels[:, 1:][wanted]
    likely = torch.full_like(pack.labels, IGNORED)
    likely[:, :-1][wanted] = logits.detach().argmax(-1)
    right = [good for row in answered(likely, pack) for good in row]
    return F.cross_entropy(logits, labels), sum(right) / len(right)


def reader(model: InstructBlipVideoForConditionalGeneration) -> Llama:
    """The model's language model, of which this module knows the kind."""
    text = model.language_model
    assert isinstance(text, Llama)
    return text


def look_ahead(model: InstructBlipVideoForConditionalGeneration) -> None:
    """Each query begins as the place of one patch, and looks for what is like itself.

    So it finds its patch from the start, where it would else first have to learn which is its own.
    """
    places = model.vision_model.embeddings.position_embedding
    nn.init.normal_(places, std=PLACES)
    with torch.no_grad():
        model.query_tokens.copy_(places / PLACES)
        for layer in model.qformer.modules():
            if isinstance(layer, QFormerLayer):
                heads = layer.crossattention.attention
                heads.key.weight.copy_(heads.query.weight)
                heads.query.weight.mul_(2)


PLACES = 0.5
"""Deviation of the tower's places: enough of them has to reach the Q-Former."""
ADDED = ("self_attn.projection", "fc2", "o_proj", "down_proj", "output.dense", "output_query.dense")
"""What adds to a stream."""


def begin(model: InstructBlipVideoForConditionalGeneration, ids: dict[str, int]) -> None:
    """First weights for so narrow a model; see `student.begin`."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            std = 0.4 if name.endswith(ADDED) else 1.0
            nn.init.normal_(
                module.weight, std=0.02 if "lm_head" in name else std / math.sqrt(module.weight[0].numel())
            )
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1 if "position" in name else 0.5)
    nn.init.normal_(model.vision_model.embeddings.class_embedding, std=0.5)
    look_ahead(model)
    table = reader(model).get_input_embeddings().weight
    words = model.qformer.embeddings.word_embeddings.weight
    with torch.no_grad():
        for word, index in ids.items():
            if word.lower() in ids and word.lower() != word:
                for each in (table, words):
                    each[index] = each[ids[word.lower()]] + 0.1 * torch.randn(each.shape[1])
