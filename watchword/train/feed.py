"""The batches of each step, made ahead of it in other processes: frames read, resized, rows encoded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from watchword.errors import MediaError, WatchwordError
from watchword.media.spec import PixelSpec
from watchword.train.batching import Batch, Seen, collate
from watchword.train.checking import Checked
from watchword.train.encoding import Encoder
from watchword.train.examples import Medium
from watchword.train.features import Store, pixels


@dataclass(frozen=True)
class Maker:
    """Makes batches of examples.

    Attributes:
        data: the examples.
        encoder: how they become ids.
        specs: how frames become pixels.
        frames: of a clip.
        seed: decides wordings.
        store: features that are known; None looks at pixels.
    """

    data: Checked
    encoder: Encoder
    specs: Mapping[str, PixelSpec]
    frames: int
    seed: int
    store: Store | None = None

    def batch(self, numbers: np.ndarray, step: int) -> Batch:
        """A batch of examples by their numbers; wordings depend on the step."""
        media: dict[Medium, int] = {}
        rows, owners = [], []
        for number in numbers.tolist():
            example = self.data.examples[number]
            own = [media.setdefault(one, len(media)) for one in example.media]
            for row in self.encoder.rows(example, self.data.frames[number], (self.seed, 3, step, number)):
                rows.append((number, row))
                owners.append(own)
        seen = [self.see(medium) for medium in media]
        self._compare(rows, owners, seen)
        return collate(rows, seen, owners, blip=not self.encoder.family.knows_turns)

    def see(self, medium: Medium) -> Seen:
        """Pixels, or features where they are known."""
        if self.store is not None:
            return Seen(medium.kind, self.store.read(medium), is_features=True)
        return pixels(medium, self.specs, self.frames)

    def _compare(self, rows: Any, owners: list[list[int]], seen: list[Seen]) -> None:
        """Refuse media that are others now than when they were checked."""
        for (number, _), own in zip(rows, owners):
            for place, (kind, frames) in zip(own, self.data.frames[number]):
                found = seen[place]
                if (found.kind, len(found.values)) != (kind, frames):
                    raise MediaError(
                        f"{self.data.examples[number].where}: a {found.kind} of {len(found.values)} frames "
                        f"now, and a {kind} of {frames} when it was checked; do not change data during a run"
                    )


class Steps(Dataset):
    """Of every step the batches that this process computes, one after the other.

    Args:
        maker: makes them.
        order: the examples of each step.
        micro: examples of a batch.
        rank, world: which of how many processes this is.
    """

    def __init__(self, maker: Maker, order: np.ndarray, micro: int, rank: int, world: int) -> None:
        self.maker, self.order, self.micro, self.rank, self.world = maker, order, micro, rank, world

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> list[Batch] | WatchwordError:
        """The batches; or what went wrong, for the main process to raise as it is."""
        own = self.order[step][self.rank :: self.world]
        try:
            return [
                self.maker.batch(own[first : first + self.micro], step)
                for first in range(0, len(own), self.micro)
            ]
        except WatchwordError as error:
            return error


def feed(steps: Steps, first: int, workers: int) -> Iterator[list[Batch]]:
    """The batches of each step from `first` on.

    Raises:
        WatchwordError: whatever a process ran into.
    """
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, len(steps)),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=one_thread,
    )
    for found in loader:
        if isinstance(found, WatchwordError):
            raise found
        yield found


def one_thread(number: int) -> None:
    """Processes that decode leave the other cores to the step."""
    torch.set_num_threads(1)
