"""Nothing is looked at twice: visual tokens by content, and prompts whose known beginnings are not embedded.

What is kept has a name made of all that it depends on: the frames themselves (never their path), how they
become pixels, the weights and the config as they are now, and the caller's scope. What the Q-Former made of
them depends on its instruction too.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from watchword.generation.kept import Kept, imprint
from watchword.media.frames import Clip
from watchword.media.pixels import to_pixels
from watchword.media.spec import PixelSpec
from watchword.nn.lora import BASE, stamps, using
from watchword.shapes import Float, Tensor


def digest(clip: Clip) -> bytes:
    """A name for a picture or clip by its frames: equal for equal content under any path."""
    frames = np.ascontiguousarray(clip.frames)
    found = hashlib.sha256(f"{clip.kind} {frames.shape} {frames.dtype}\n".encode())
    found.update(frames)
    return found.digest()


def state(model: nn.Module) -> str:
    """A name for a model as it is now; another as soon as a weight, an adapter or its config changes."""
    config = json.dumps(model.config.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(f"{imprint(model)}\n{config}".encode()).hexdigest()


@dataclass(frozen=True)
class Sight:
    """One picture or clip under one model.

    Attributes:
        clip: the frames.
        spec: how they become pixels.
        device: where the model is.
        store: what is kept.
        scope: the caller's, and the model's state.
        content: the frames' digest.
        adapter: the one that the model looks with.
        count: of visual tokens, fewer than the model has where they are merged.
    """

    clip: Clip
    spec: PixelSpec
    device: torch.device
    store: Kept
    scope: str
    content: bytes
    adapter: str = BASE
    count: int | None = None

    def pixels(self) -> Float[Tensor, "T 3 H W"]:
        """The frames as the model takes them."""
        return to_pixels(self.clip.frames, self.spec, channels="channels_last").to(self.device)

    def kept(
        self, kind: str, extra: tuple[int, ...], parts: Sequence[nn.Module], compute: Callable[[], Tensor]
    ) -> Tensor:
        """What `compute` gives, from the store if it was computed before.

        Args:
            kind: what it is.
            extra: what else it depends on.
            parts: of the model, all that it goes through. Adapters that leave them alone share it.
            compute: run with this sight's adapter.
        """
        stamp = tuple(stamps(part, self.adapter) for part in parts)
        name = (kind, self.scope, self.content, repr(self.spec), extra, stamp)
        found = self.store.get(name)
        if found is None:
            with using(self.adapter):
                found = compute()
            self.store.put(name, found)
        return found

    def key(self, instruction: tuple[int, ...]) -> bytes:
        """A name for the visual tokens, for the prompt's keys."""
        return hashlib.sha256(self.content + repr((self.spec, instruction, self.count)).encode()).digest()


class Lazy:
    """Embeds a prompt piece by piece, and looks at a medium only when a piece has tokens of it.

    Args:
        embed: the text model's embedding of ids.
        positions: what stands at each place: an id, or which medium and which of its visual tokens.
        look: gives the visual tokens of a medium.
        device: where the model is.
    """

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        positions: Sequence[Any],
        look: Callable[[int], Float[Tensor, "M D"]],
        device: torch.device,
    ) -> None:
        self._embed, self._positions, self._look, self._device = embed, positions, look, device
        self._seen: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, start: int, end: int) -> Float[Tensor, "1 n D"]:
        """The positions from `start` to `end` - 1."""
        some = self._positions[start:end]
        ids = [0 if isinstance(one, tuple) else one for one in some]
        embeds = self._embed(torch.tensor([ids], device=self._device))
        places: dict[int, list[tuple[int, int]]] = {}
        for place, one in enumerate(some):
            if isinstance(one, tuple):
                places.setdefault(one[0], []).append((place, one[1]))
        for medium, pairs in places.items():
            where, which = (torch.tensor(side, device=self._device) for side in zip(*pairs))
            embeds[0, where] = self.tokens(medium)[which].to(embeds.dtype)
        return embeds

    @torch.no_grad()
    def tokens(self, medium: int) -> Float[Tensor, "M D"]:
        """The visual tokens of a medium."""
        if medium not in self._seen:
            self._seen[medium] = self._look(medium)
        return self._seen[medium]

    def look_behind(self, start: int) -> None:
        """Look at every medium that has tokens at `start` or behind it."""
        for medium in {one[0] for one in self._positions[start:] if isinstance(one, tuple)}:
            self.tokens(medium)
