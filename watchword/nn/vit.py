"""The pre-norm vision transformer that CLIP and EVA share; they differ in attention and embeddings."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from watchword.errors import RequestError
from watchword.nn.layers import activation, run_layer
from watchword.nn.quantized import fed
from watchword.nn.trace import Trace
from watchword.shapes import Float, Tensor

FRAMES = 4
"""Pictures that go through a tower together on a CPU. All at once is no faster (benchmarks/attention.md), and
the feed-forwards of a long clip would take gigabytes."""


class Mlp(nn.Module):
    """fc2(act(fc1 x))."""

    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "B P D"]) -> Float[Tensor, "B P D"]:
        """Each row by itself."""
        return fed(x, self.fc1, self.act, self.fc2)


class VitLayer(nn.Module):
    """Attention, then feed-forward, each on the normed stream and added back.

    Args:
        attention: module that maps (x, trace) to the attended x.
    """

    def __init__(self, attention: nn.Module, *, width: int, inner: int, act: str, eps: float) -> None:
        super().__init__()
        self.self_attn = attention
        self.layer_norm1 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, inner, act)
        self.layer_norm2 = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Float[Tensor, "B P D"], trace: Trace | None) -> Float[Tensor, "B P D"]:
        """One layer further; the trace gets the attention's weights."""
        x = x + self.self_attn(self.layer_norm1(x), trace)
        return x + self.mlp(self.layer_norm2(x))


class VitEncoder(nn.Module):
    """A stack of layers of which only the needed depth is computed.

    Args:
        layers: how many.
        attention: makes the attention module of one layer.
        width: of the stream; `inner` is that of the feed-forwards.
    """

    def __init__(
        self, layers: int, attention: Callable[[], nn.Module], *, width: int, inner: int, act: str, eps: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            VitLayer(attention(), width=width, inner=inner, act=act, eps=eps) for _ in range(layers)
        )
        self.gradient_checkpointing = False

    def forward(
        self, x: Float[Tensor, "B P D"], wanted: Sequence[int], trace: Trace | None
    ) -> list[Float[Tensor, "B P D"]]:
        """States after that many layers each; 0 is the input. Layers behind the deepest do not run."""
        if len(x) > FRAMES and x.device.type == "cpu" and trace is None and not torch.is_grad_enabled():
            parts = [self.run(part, wanted, None) for part in x.split(FRAMES)]
            return [torch.cat(state) for state in zip(*parts)]
        return self.run(x, wanted, trace)

    def run(
        self, x: Float[Tensor, "B P D"], wanted: Sequence[int], trace: Trace | None
    ) -> list[Float[Tensor, "B P D"]]:
        """The same, all pictures together."""
        states = {0: x}
        if trace is not None:
            trace.hidden(x)
        for index in range(max(wanted)):
            x = run_layer(self, self.layers[index], x, trace)
            states = {at: state for at, state in states.items() if at in wanted} | {index + 1: x}
            if trace is not None:
                trace.hidden(x)
        return [states[at] for at in wanted]


def depth_of(layer: int, layers: int) -> int:
    """How many layers run for entry `layer` of the hidden states: 0 … layers, or counted from the end.

    Raises:
        RequestError: there is no such entry.
    """
    if not -layers - 1 <= layer <= layers:
        raise RequestError(
            f"vision_feature_layer {layer}: the tower has {layers} layers and so hidden states 0 to {layers} "
            f"(or -{layers + 1} to -1); choose one of them"
        )
    return layer % (layers + 1)


def check_frames(pixels: Tensor, channels: int) -> None:
    """One picture per row, channels first.

    Raises:
        RequestError: any other layout.
    """
    if pixels.ndim != 4 or pixels.shape[1] != channels:
        raise RequestError(
            f"pixel_values: got shape {tuple(pixels.shape)}; expected (pictures, {channels}, height, width); "
            "use the processor that belongs to this model"
        )


def patch_rows(pixels: Float[Tensor, "B C H W"], patches: nn.Conv2d) -> Float[Tensor, "B n D"]:
    """Pictures to patch embeddings, row by row, in the type of the weights."""
    return patches(pixels.to(patches.weight.dtype)).flatten(2).transpose(1, 2)


def class_first(token: Float[Tensor, "... D"], rows: Float[Tensor, "B n D"]) -> Float[Tensor, "B P D"]:
    """The class token in front of every picture's patches."""
    return torch.cat((token.to(rows.dtype).expand(len(rows), 1, -1), rows), dim=1)
