"""What a frozen vision tower saw, kept in files: computed once for each medium, read in every pass."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from watchword.errors import CapacityError, CheckpointError
from watchword.media.decode import read_media
from watchword.media.gate import OPEN, Policy
from watchword.media.pick import uniform
from watchword.media.spec import PixelSpec
from watchword.models.video_llava import VideoLlava
from watchword.pipeline.families import pixels_of
from watchword.shapes import Float, Tensor
from watchword.train.batching import Seen
from watchword.train.examples import Cell, Medium
from watchword.train.learner import Learner


class Store:
    """Features by medium, a file each.

    Args:
        folder: where the files lie.
        key: names the towers, the pixel settings and the number of frames; see `key_of`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.files: dict[Medium, str] = {}

    def fill(
        self,
        media: Iterable[Medium],
        learner: Learner,
        read: Callable[[Medium], Seen],
        tell: Callable[[int, int], None],
    ) -> None:
        """Compute what is not there yet.

        Raises:
            CapacityError: the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        distinct = list(dict.fromkeys(media))
        device = next(learner.parameters()).device
        for done, medium in enumerate(distinct, start=1):
            seen = None
            if isinstance(medium.source, Cell):  # a row has no date; its content names it
                seen = read(medium)
                name = hashlib.sha256(seen.values.numpy().tobytes())
            else:
                name = hashlib.sha256(repr(medium.identity()).encode())
            name.update(self.key.encode())
            self.files[medium] = path = str(self.folder / f"{name.hexdigest()}.pt")
            if not os.path.exists(path):
                seen = seen or read(medium)
                values = seen.values.to(device, tower_dtype(learner.model))
                with torch.no_grad():
                    found = learner.features(Seen(seen.kind, values))
                keep(found.cpu().contiguous(), path)
            tell(done, len(distinct))

    def read(self, medium: Medium) -> Float[Tensor, "T P C"]:
        """The features of a medium.

        Raises:
            CheckpointError: its file is gone or damaged.
        """
        path = self.files[medium]
        try:
            return torch.load(path, weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: kept features cannot be read ({error}); remove them and start again"
            ) from error


def keep(features: Tensor, path: str) -> None:
    """Write features in one go."""
    partial = f"{path}.partial"
    try:
        torch.save(features, partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        Path(partial).unlink(missing_ok=True)
        raise CapacityError(
            f"{path}: features cannot be kept ({error}); make room, or leave out --cache-features"
        ) from error


def towers(model: nn.Module) -> list[nn.Module]:
    """The vision towers of a family."""
    return [model.image_tower, model.video_tower] if isinstance(model, VideoLlava) else [model.vision_model]


def tower_dtype(model: nn.Module) -> torch.dtype:
    """The type in which towers take pixels."""
    return next(towers(model)[0].parameters()).dtype


def frozen(model: nn.Module) -> bool:
    """Whether no tower learns."""
    return not any(one.requires_grad for tower in towers(model) for one in tower.parameters())


def key_of(model: nn.Module, specs: dict[str, PixelSpec], frames: int) -> str:
    """A name for all that features depend on besides the medium."""
    found = hashlib.sha256(f"{sorted(specs.items())} {frames}".encode())
    found.update(repr(getattr(model.config, "vision_feature_layer", None)).encode())
    for tower in towers(model):
        for name, tensor in tower.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def pixels(medium: Medium, specs: dict[str, PixelSpec], frames: int, policy: Policy = OPEN) -> Seen:
    """A medium as the towers take it."""
    clip = read_media(medium.open(), uniform(frames), policy=policy)
    return Seen(clip.kind, pixels_of(clip, specs))
