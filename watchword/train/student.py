"""The embedded model while it learns: its config, its first weights, and its losses."""

import math

import torch
from torch import nn

from watchword.config import VideoLlavaConfig
from watchword.hf.language import causal_loss
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.models.llama import Llama
from watchword.nn.trace import Trace
from watchword.shapes import Float, Tensor
from watchword.train import world
from watchword.train.dense import MotionHeads, OutlineHead, SightHeads
from watchword.train.lessons import Batch, Look
from watchword.train.packing import Pack, Packed, answered
from watchword.train.shapes import ACTIONS

TAPS = (1, -2)
"""Vision layers that outlines and everything else are taught on; the second is the one the language model
reads."""
MOTION_LAYER = 2
"""The language model's layer whose states are taught what has happened."""

WEIGHTS = {"outline": 3.0, "sight": 0.3, "motion": 0.5}
"""Of the temporary lessons beside the answers' loss; while there are no questions `sight` counts in full."""


def demo_config(look: Look) -> VideoLlavaConfig:
    """Video-LLaVA at 1/4000 of its size."""
    ids = look.ids
    return VideoLlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 96,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": look.side,
            "patch_size": look.patch,
            "projection_dim": 96,
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
            "bos_token_id": ids["<s>"],
            "eos_token_id": ids["</s>"],
            "pad_token_id": ids["<pad>"],
            "tie_word_embeddings": False,
        },
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_seq_length=look.grid**2,
        video_seq_length=look.frames * (look.grid**2 + 1),
    )


class Student(nn.Module):
    """The model and its temporary heads.

    Both towers are one while learning: pictures then profit from what clips teach, and the folder gets two
    copies.
    """

    def __init__(self, look: Look) -> None:
        super().__init__()
        config = demo_config(look)
        self.model = VideoLlavaForConditionalGeneration(config)
        begin(self.model, look.ids)
        self.model.image_tower = self.model.video_tower
        width = config.vision_config.hidden_size
        self.outline = OutlineHead(width)
        self.sight = SightHeads(width)
        actions = world.ACTIONS if look.wide else ACTIONS
        self.motion = MotionHeads(config.text_config.hidden_size, len(actions))

    def features(
        self, pixels: Float[Tensor, "B T 3 h w"]
    ) -> tuple[Float[Tensor, "B T P D"], Float[Tensor, "B T P D"]]:
        """The tower's states after the two layers of `TAPS`, class token first."""
        both = self.model.video_tower.features(pixels.flatten(0, 1), TAPS)
        early, late = torch.unflatten(both, 0, pixels.shape[:2]).chunk(2, dim=-1)
        return early, late

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What to minimise, and how well each thing goes."""
        early, features = self.features(batch.pixels)
        outline = self.outline(early, batch.target)
        sight, seen = self.sight(features, batch.target)
        report = {"outline": float(outline.detach()), **seen}
        if batch.pack is None:
            return WEIGHTS["outline"] * outline + sight, report
        logits, states = self.answers(batch.pack, features)
        answers = causal_loss(logits, batch.pack.labels)
        loss = answers + WEIGHTS["sight"] * (WEIGHTS["outline"] * outline + sight)
        kind = "video" if batch.is_video else "picture"
        right = [good for row in answered(logits.detach(), batch.pack) for good in row]
        report |= {f"{kind}_loss": float(answers.detach()), f"{kind}_right": sum(right) / len(right)}
        if batch.is_video:
            motion, moved = self.motion(states, batch.target)
            loss, report = loss + WEIGHTS["motion"] * motion, report | moved
        return loss, report

    def answers(
        self, pack: Pack, features: Float[Tensor, "B T P D"]
    ) -> tuple[Tensor, Float[Tensor, "B T N H"]]:
        """Scores at every place, and the language model's states where it reads the clip or picture.

        Pictures, which are features of one frame, go without their class token: the documented default.
        """
        is_video = features.shape[1] > 1
        features = features if is_video else features[:, :, 1:]
        tokens = self.model.multi_modal_projector(features.flatten(0, 1))
        images, clips = (None, tokens) if is_video else (tokens, None)
        text = reader(self.model)
        embeds = self.model.place(text.embed(pack.ids), pack.ids, images, clips)
        states: list[Tensor] = []
        hidden = text.hidden(
            embeds, positions=pack.positions, cache=Packed(pack.mask()), trace=Trace(hidden_states=states)
        )
        seen = features.shape[1] * features.shape[2]
        first = int((pack.part[0] == 0).sum()) - seen
        middle = states[MOTION_LAYER][:, first : first + seen]
        return text.logits(hidden), torch.unflatten(middle, 1, features.shape[1:3])


def reader(model: VideoLlavaForConditionalGeneration) -> Llama:
    """The model's language model, of which this module knows the kind."""
    text = model.language_model
    assert isinstance(text, Llama)
    return text


def begin(model: VideoLlavaForConditionalGeneration, ids: dict[str, int]) -> None:
    """First weights for so narrow a model: each linear keeps its input's size, and what adds to a stream
    adds little."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            added = name.endswith(("out_proj", "fc2", "o_proj", "down_proj"))
            std = 0.4 if added else 1.0
            nn.init.normal_(
                module.weight, std=0.02 if "lm_head" in name else std / math.sqrt(module.weight[0].numel())
            )
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1 if "position" in name else 0.5)
    table = reader(model).get_input_embeddings().weight
    with torch.no_grad():
        for word, index in ids.items():
            if word.lower() in ids and word.lower() != word:
                table[index] = table[ids[word.lower()]] + 0.1 * torch.randn(table.shape[1])


def step_size(step: int, steps: int, peak: float, *, warm_up: int = 100, floor: float = 0.02) -> float:
    """Learning rate: a straight climb, then half a cosine down to `floor` of the peak."""
    climb = min(1.0, (step + 1) / warm_up)
    return peak * climb * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))
