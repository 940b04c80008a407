"""The embedded model while it learns: its config, its first weights, and its losses."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from watchword.config import VideoLlavaConfig
from watchword.hf.language import IGNORED
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.models.clip import ClipAttention
from watchword.models.llama import Llama
from watchword.nn.trace import Trace
from watchword.shapes import Float, Tensor
from watchword.train.dense import MotionHeads, OutlineHead, SightHeads
from watchword.train.lessons import Batch, Look
from watchword.train.mentions import MentionHeads
from watchword.train.packing import Pack, Packed, answered
from watchword.train.pupil import Pupil

TAPS = (1, -2)
"""Vision layers that outlines and everything else are taught on; the second is the one the language model
reads."""
MOTION_LAYER = 2
"""The language model's layer whose states are taught what has happened."""

WEIGHTS = {"outline": 3.0, "sight": 0.3, "motion": 0.5, "mention": 0.5, "coming": 0.5}
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


class Student(Pupil):
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
        self.motion = MotionHeads(config.text_config.hidden_size)
        self.mention = MentionHeads(config.text_config.hidden_size)
        self.coming = MentionHeads(config.text_config.hidden_size, does=False)

    def train(self, mode: bool = True) -> "Student":
        """Written out while it learns, since the fused kernel does so fifteen times as slowly in bfloat16."""
        for module in self.model.video_tower.modules():
            if isinstance(module, ClipAttention):
                module.backend = "eager" if mode else "sdpa"
        return super().train(mode)

    def seeing(self) -> tuple[nn.Module, ...]:
        """Tower and its heads."""
        return self.model.video_tower, self.outline, self.sight

    def features(
        self, pixels: Float[Tensor, "B T 3 h w"]
    ) -> tuple[Float[Tensor, "B T P D"], Float[Tensor, "B T P D"]]:
        """The tower's states after the two layers of `TAPS`, class token first."""
        both = self.model.video_tower.features(pixels.flatten(0, 1), TAPS)
        early, late = torch.unflatten(both, 0, pixels.shape[:2]).chunk(2, dim=-1)
        return early, late

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """What to minimise, and how well each thing goes; products in bfloat16, for which processors have
        units."""
        with torch.autocast(batch.pixels.device.type, torch.bfloat16):
            return self.losses(batch)

    def losses(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The same, as precisely as the caller's settings say."""
        early, features = self.features(batch.pixels)
        outline = self.outline(early, batch.target)
        sight, seen = self.sight(features, batch.target)
        report = {"outline": float(outline.detach()), **seen}
        if batch.pack is None:
            return WEIGHTS["outline"] * outline + sight, report
        hidden, states = self.read(batch.pack, features)
        wanted = batch.pack.labels[:, 1:] != IGNORED
        logits = reader(self.model).logits(hidden[:, :-1][wanted]).float()
        answers = F.cross_entropy(logits, batch.pack.labels[:, 1:][wanted])
        loss = answers + WEIGHTS["sight"] * (WEIGHTS["outline"] * outline + sight)
        kind = "video" if batch.is_video else "picture"
        guess = torch.full_like(batch.pack.labels, IGNORED)
        guess[:, :-1][wanted] = logits.detach().argmax(-1)
        right = [good for row in answered(guess, batch.pack) for good in row]
        report |= {f"{kind}_loss": float(answers.detach()), f"{kind}_right": sum(right) / len(right)}
        if batch.mentions is not None:
            early, late = states[MOTION_LAYER].float(), states[MOTION_LAYER + 1].float()
            mention, known = self.mention(early, late, batch.mentions, moving=batch.is_video)
            loss = loss + WEIGHTS["mention"] * mention
            report |= {f"named_{name}": value for name, value in known.items()}
            coming, known = self.coming(late, late, batch.mentions.coming(), moving=batch.is_video)
            loss = loss + WEIGHTS["coming"] * coming
            report |= {f"coming_{name}": value for name, value in known.items()}
        if batch.is_video:
            middle = states[MOTION_LAYER][:, batch.pack.cuts[0] - seen_tokens(features) : batch.pack.cuts[0]]
            middle = torch.unflatten(middle, 1, features.shape[1:3])
            motion, moved = self.motion(middle, batch.target)
            loss, report = loss + WEIGHTS["motion"] * motion, report | moved
        return loss, report

    def read(
        self, pack: Pack, features: Float[Tensor, "B T P D"]
    ) -> tuple[Float[Tensor, "B L H"], list[Float[Tensor, "B L H"]]]:
        """The last states at every place, and those after each layer, the embeddings first.

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
            embeds,
            positions=pack.positions,
            cache=Packed(pack.mask(), pack.cuts),
            trace=Trace(hidden_states=states),
        )
        return hidden, states


def seen_tokens(features: Float[Tensor, "B T P D"]) -> int:
    """Visual tokens of a clip."""
    return features.shape[1] * features.shape[2]


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
