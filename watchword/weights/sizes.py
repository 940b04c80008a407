"""How much memory a model will take, by arithmetic on shapes, before anything is loaded.

Weights and keys are exact. Activations follow a rule of thumb that was measured: see `activation_bytes`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from watchword.errors import CapacityError, ConfigError
from watchword.nn.memory import Memory, gib

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every parameter by its name in the model."""


@dataclass(frozen=True)
class Format:
    """How a matrix is stored.

    Args:
        bits: of one value.
        group: values of a row that share `scale`; 0 when the whole row does.
        scale: bytes beside each group: scales, and zeros where there are any.
        dtype: type of the model's other values; None leaves it to the caller.
    """

    bits: int
    group: int = 0
    scale: int = 0
    dtype: torch.dtype | None = None


FORMATS: Mapping[str, Format] = {
    "float32": Format(32, dtype=torch.float32),
    "bfloat16": Format(16, dtype=torch.bfloat16),
    "float16": Format(16, dtype=torch.float16),
    "int8": Format(8, scale=4),
    "int4": Format(4, group=64, scale=4),
    "nf4": Format(4, group=64, scale=4),
}
"""Dense types, and the packed ones of `quantize=`."""

EMBEDDINGS = ("embed_tokens", "embed_positions", "shared", "relative_attention_bias", "lm_head")
"""Matrices of a text model that stay dense in packed formats: read by row, or few and delicate."""

PROCESS = 450 * 2**20
"""What the process takes before a model is there: torch, the video reader and their libraries; measured."""

MARGIN = 0.10
"""By how much a measured peak may differ from `Need.total`, as a share of it; benchmarks/fit.md."""


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a packed format applies to this parameter: the text model's linear layers."""
    parts = name.split(".")
    text = parts[0] == "language_model" and len(shape) == 2 and parts[-1] == "weight"
    return text and not any(one in EMBEDDINGS for one in parts)


def format_of(name: str) -> Format:
    """A format by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in FORMATS:
        raise ConfigError(f"format {name!r}: unknown; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def matrix_bytes(shape: tuple[int, ...], how: Format) -> int:
    """Bytes of one matrix (rows, values in a row) in a format, its scales included."""
    rows, width = math.prod(shape[:-1]), shape[-1]
    groups = -(-width // how.group) if how.group else 1
    return rows * (width * how.bits // 8 + groups * how.scale)


def weight_bytes(
    shapes: Shapes,
    form: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    packed: Callable[[str, tuple[int, ...]], bool] = is_packed,
) -> dict[str, int]:
    """Bytes of the weights of each part of the model: vision tower, Q-Former, text model and so on.

    Args:
        shapes: of all parameters. Tied ones belong in it once.
        form: a key of `FORMATS`.
        dtype: type of what a packed format leaves dense.
        packed: says which parameters a packed format applies to.
    """
    how = format_of(form)
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        if how.dtype is None and packed(name, shape):
            size = matrix_bytes(shape, how)
        else:
            size = math.prod(shape) * (how.dtype or dtype).itemsize
        part = name.split(".")[0]
        found[part] = found.get(part, 0) + size
    return found


def cache_bytes(text: Any, positions: int, rows: int = 1, *, new: int = 0, itemsize: int = 2) -> int:
    """Bytes of the keys and values of `rows` rows.

    Args:
        text: the config of the text model.
        positions: of the prompt, for each row.
        rows: beams, samples or requests at a time.
        new: further positions, for the answer.
        itemsize: bytes of one value.
    """
    heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
    width = getattr(text, "head_dim", text.hidden_size // text.num_attention_heads)
    layers = getattr(text, "num_decoder_layers", text.num_hidden_layers)  # T5: the encoder keeps nothing
    return 2 * layers * heads * width * rows * (positions + new) * itemsize


def activation_bytes(
    text: Any, shapes: Shapes, positions: int, *, piece: int = 512, itemsize: int = 2
) -> int:
    """Bytes in flight while a prompt runs, by a rule of thumb.

    A piece of the prompt with eight rows of model width and three of the MLP's; the scores of its attention
    in float32, twice; and one matrix, which the product may lay out anew. Measured: benchmarks/fit.md.
    """
    rows = min(piece, positions)
    inner = max((shape[0] for name, shape in shapes.items() if name.startswith("language_model.")
                 and "layers." in name and len(shape) == 2), default=0)  # fmt: skip
    largest = max((math.prod(shape) for name, shape in shapes.items() if is_packed(name, shape)), default=0)
    flow = rows * (8 * text.hidden_size + 3 * inner) * itemsize
    scores = 2 * text.num_attention_heads * rows * positions * 4
    return flow + scores + largest * itemsize


@dataclass(frozen=True)
class Need:
    """Bytes that a model will take.

    Attributes:
        weights: by part.
        cache: keys and values of the rows at work.
        kept: keys and values kept for later questions.
        activations: in flight while a prompt runs.
        process: before a model is there.
    """

    weights: Mapping[str, int]
    cache: int
    kept: int
    activations: int
    process: int = PROCESS

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + self.cache + self.kept + self.activations + self.process

    def rows(self) -> dict[str, int]:
        """Each line of a table."""
        return {
            **self.weights,
            "keys and values": self.cache,
            "kept for later": self.kept,
            "at work": self.activations,
            "process": self.process,
        }


def need(
    shapes: Shapes,
    text: Any,
    form: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    positions: int,
    rows: int = 1,
    new: int = 128,
    keep: int = 0,
    packed: Callable[[str, tuple[int, ...]], bool] = is_packed,
) -> Need:
    """What a model takes in a format; arguments as for `weight_bytes` and `cache_bytes`.

    Args:
        keep: the budget for what is kept for later questions, in bytes.
    """
    itemsize = (format_of(form).dtype or dtype).itemsize
    return Need(
        weights=weight_bytes(shapes, form, dtype=dtype, packed=packed),
        cache=cache_bytes(text, positions, rows, new=new, itemsize=itemsize),
        kept=min(keep, cache_bytes(text, positions, itemsize=itemsize)),
        activations=activation_bytes(text, shapes, positions, itemsize=itemsize),
    )


def check_fits(wanted: Need, there: Memory, where: str) -> None:
    """Refuse what will not fit, before the machine begins to swap.

    Raises:
        CapacityError: it does not fit.
    """
    if there.available is None or wanted.total <= there.available:
        return
    raise CapacityError(
        f"{where}: needs about {gib(wanted.total)} ({gib(sum(wanted.weights.values()))} of weights), and "
        f"{there.where} is {gib(there.available)}; close other programs, or load it smaller: "
        "quantize='int8' or 'int4', fewer positions or rows (`watchword fit` shows each)"
    )
