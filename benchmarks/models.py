"""Models to measure with: the embedded one, and parts of the real widths with random weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from watchword.config import InstructBlipConfig, LlamaConfig, VideoLlavaConfig
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.models.instructblip import InstructBlip
from watchword.models.llama import Llama
from watchword.models.video_llava import VideoLlava
from watchword.shapes import Tensor

EMBEDDED = Path(__file__).parents[1] / "watchword" / "demo" / "video-llava"

BACKEND = "blocked"
"""How they attend: the default of `watchword.load`."""

Embed = Callable[[int, int], Tensor]


def embedded() -> tuple[nn.Module, Callable[[int], Embed], int]:
    """Its text model, embeddings of a clip and a question by number, and how long such a prompt is."""
    model = VideoLlavaForConditionalGeneration.from_pretrained(EMBEDDED).eval().requires_grad_(False)
    config = model.config
    side, frames = config.vision_config.image_size, 8
    visual = config.video_seq_length

    def embed(number: int) -> Embed:
        random = torch.Generator().manual_seed(number)
        words = torch.randint(10, 60, (1, 24), generator=random)
        clip = torch.full((1, visual), config.video_token_index)
        ids = torch.cat([words[:, :4], clip, words[:, 4:]], dim=1)
        pixels = torch.randn(1, frames, 3, side, side, generator=random)

        def piece(start: int, end: int) -> Tensor:
            return model.embed(ids, clips=pixels)[:, start:end]

        return piece

    return model.language_model, embed, visual + 24


def wide_llama(layers: int, width: int, backend: str = BACKEND) -> tuple[nn.Module, Callable[..., Embed]]:
    """A LLaMA of so many layers of 7B width, and random embeddings by number and length."""
    settings = {name: value for name, value in text(layers, width).items() if name != "model_type"}
    config = LlamaConfig(**settings)
    model = built(lambda: Llama(config, backend=backend))

    def embed(number: int, length: int = 64) -> Embed:
        ids = torch.randint(3, 32000, (1, length), generator=torch.Generator().manual_seed(number))
        return lambda start, end: model.embed(ids[:, start:end])

    return model, embed


def wide_instructblip(layers: int, width: int, vision_layers: int) -> InstructBlip:
    """InstructBLIP with a Vicuna of so many layers, tower and Q-Former of the real sizes."""
    config = InstructBlipConfig(
        vision_config={"num_hidden_layers": vision_layers}, text_config=text(layers, width),
        image_token_index=31999,
    )  # fmt: skip
    return built(lambda: InstructBlip(config, backend=BACKEND))


def wide_video_llava(layers: int, width: int) -> VideoLlava:
    """Video-LLaVA with so many layers of text, towers of the real size; both kinds of media share one."""
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
        "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
    }  # fmt: skip
    config = VideoLlavaConfig(
        vision_config=vision,
        text_config=text(layers, width),
        image_token_index=31998,
        video_token_index=31999,
    )

    def make() -> VideoLlava:
        model = VideoLlava(config, backend=BACKEND)
        model.image_tower = model.video_tower
        return model

    return built(make)


def text(layers: int, width: int) -> dict:
    """A LLaMA of 7B shape but for the number of its layers."""
    return {
        "model_type": "llama", "vocab_size": 32000, "hidden_size": width,
        "intermediate_size": int(width * 2.6875), "num_hidden_layers": layers,
        "num_attention_heads": width // 128, "max_position_embeddings": 4096,
    }  # fmt: skip


def built(make: Callable[[], nn.Module], dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """A module with random weights, made without ever being float32."""
    with torch.device("meta"):
        model = make().to(dtype)
    model = model.to_empty(device="cpu").eval().requires_grad_(False)
    noise = torch.randn(2**20).to(dtype)  # the same noise everywhere: numbers do not matter, time does
    for name, parameter in model.named_parameters():
        flat = parameter.view(-1)
        scale = 1.0 if "norm" in name else parameter.shape[-1] ** -0.5
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)] * scale)
        if "norm" in name:
            parameter.fill_(1.0) if name.endswith("weight") else parameter.zero_()
    return model
