"""Recipes: what learns, and how fast. Each is a line that can be read.

`qformer` and its rate: Dai and others, InstructBLIP (2023). `projector`, `language` and their rates: Lin and
others, Video-LLaVA (2023), stages 1 and 2. `lora` and `qlora`: Hu and others (2021), Dettmers and others
(2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from watchword.errors import RequestError
from watchword.nn import lora

BLIP, LLAVA = ("instructblip", "instructblipvideo"), ("video_llava",)
LINEARS = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "t5": ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"),
}
"""The linears of each text model that take an adapter: attention and feed-forward, as QLoRA found best."""
QFORMER = ("query", "key", "value")
"""Those of the Q-Former."""


@dataclass(frozen=True)
class Recipe:
    """What learns.

    Attributes:
        name: as it is asked for.
        learns: in words.
        parts: beginnings of the names of parameters that learn; () for adapters.
        rate: the peak of the learning rate, unless told.
        families: those that it is for.
        adapter: it teaches LoRA differences and leaves the model as it is.
        quantized: the frozen weights are stored in a few bits.
        decay: weight decay of matrices, unless told.
    """

    name: str
    learns: str
    parts: tuple[str, ...]
    rate: float
    families: tuple[str, ...] = (*BLIP, *LLAVA)
    adapter: bool = False
    quantized: bool = False
    decay: float = 0.0


BRIDGES = ("language_projection.", "multi_modal_projector.")

RECIPES = {
    one.name: one
    for one in (
        Recipe(
            "qformer", "the Q-Former, its queries and the projection; vision and language stay as they are",
            ("qformer.", "query_tokens", "language_projection."), 1e-5, BLIP, decay=0.05,
        ),
        Recipe("projector", "the projection from vision to language, nothing else", BRIDGES, 1e-3),
        Recipe(
            "language", "the language model and the projection; vision stays as it is",
            ("language_model.", *BRIDGES), 2e-5,
        ),
        Recipe(
            "lora", "small differences (LoRA) beside the language model's linears; the model stays as it is",
            (), 2e-4, adapter=True,
        ),
        Recipe(
            "qlora", "the same over weights of 4 or 8 bits", (), 2e-4, adapter=True, quantized=True,
        ),
        Recipe("full", "everything", ("",), 1e-5),
    )
}  # fmt: skip
"""By name."""


def recipe(name: str, model_type: str) -> Recipe:
    """The recipe of that name.

    Raises:
        RequestError: unknown, or not for this family.
    """
    if name not in RECIPES:
        raise RequestError(f"recipe {name!r}: unknown; known are {', '.join(RECIPES)}")
    found = RECIPES[name]
    if model_type not in found.families:
        others = ", ".join(one.name for one in RECIPES.values() if model_type in one.families)
        raise RequestError(
            f"recipe {name!r}: teaches {found.learns}; {model_type} has no such parts; use one of {others}"
        )
    return found


def targets_of(model: nn.Module, asked: Sequence[str] | None) -> list[str]:
    """The whole names of the linears that take an adapter.

    Args:
        asked: "language" and "qformer" for those parts' known good ones, or last parts of names; the
            language model's when None.

    Raises:
        RequestError: nothing of that name.
    """
    found: list[str] = []
    for one in asked or ("language",):
        if one == "language":
            kinds = LINEARS[model.config.text_config.model_type]
            found += _ending(model, "language_model.", kinds)
        elif one == "qformer":
            found += _ending(model, "qformer.", QFORMER)
        else:
            found += lora.matching(model, [one])
        if not found:
            raise RequestError(f"targets: {one!r} names nothing that {type(model).__name__} has")
    return list(dict.fromkeys(found))


def _ending(model: nn.Module, part: str, names: Sequence[str]) -> list[str]:
    return [
        path
        for path, module in model.named_modules()
        if path.startswith(part) and path.rpartition(".")[2] in names and lora.is_linear(module)
    ]


def prepare(
    model: nn.Module,
    chosen: Recipe,
    *,
    targets: Sequence[str] | None = None,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
) -> dict[str, nn.Parameter]:
    """Let learn what the recipe says, and nothing else.

    Parts in which something learns are in training mode, so that their dropout drops; the others are not.

    Returns:
        What learns, by name; shared parameters once.
    """
    if chosen.adapter:
        lora.add_adapter(model, targets_of(model, targets), rank, alpha=alpha, dropout=dropout)
    else:
        model.requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.startswith(chosen.parts):
                parameter.requires_grad_(True)
    set_modes(model)
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def set_modes(model: nn.Module) -> None:
    """Training mode for modules that have something that learns of their own, evaluation for all others.

    Of a frozen part dropout would only be noise: under `lora` that leaves the adapters' own. Frozen stacks
    through which gradients go still compute their layers again on the way back, where that was asked for.
    """
    model.eval()
    for module in model.modules():
        if (own := list(module.parameters())) and all(one.requires_grad for one in own):
            module.train()
        elif hasattr(module, "gradient_checkpointing"):
            module.recomputes = module.gradient_checkpointing
