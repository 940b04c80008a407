"""A model while it learns: from a batch to the loss of each row.

Only the places whose next token is learned go through the language-model head: with thousands of visual
tokens in a row and tens of thousands of words in the vocabulary, the scores of all places would be larger
than the model. Of the last layer only the places from the first learned one on are computed: what lies before
them is looked at there, and asks nothing. What several rows look at is looked at once.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from watchword.errors import RequestError
from watchword.hf.language import IGNORED
from watchword.models.instructblip import Seen as Looked
from watchword.models.video_llava import VideoLlava
from watchword.nn.attention import Uncached
from watchword.shapes import Bool, Float, Int, Tensor
from watchword.train.batching import Batch, Seen
from watchword.train.packing import Packed


class Learner(nn.Module):
    """Wraps a family, so that data-parallel wrappers find a `forward`.

    Args:
        model: an `InstructBlip` or a `VideoLlava`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Float[Tensor, "B"]:
        """The loss of each row: the sum over its learned tokens, in float32."""
        embeds = self.embeds(batch)
        text = self.model.language_model
        if self.model.config.text_config.is_encoder_decoder:
            return self._encoder_decoder(text, embeds, batch)
        targets = F.pad(labels_behind(batch, embeds.shape[1]), (0, 1), value=IGNORED)[:, 1:]
        cache = Uncached() if batch.sees is None else Packed(batch.sees)
        positions = batch.positions
        if positions is None:
            positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        tail = learned_tail(targets)
        hidden = text.hidden(embeds, positions=positions, cache=cache, tail=tail)
        return row_losses(text, hidden, targets[:, -tail:])

    def embeds(self, batch: Batch) -> Float[Tensor, "B S D"]:
        """Text embeddings with the visual tokens in their places."""
        model = self.model
        embeds = model.language_model.embed(batch.ids)
        if isinstance(model, VideoLlava):
            return model.place(embeds, batch.ids, *self._llava_tokens(batch))
        return self._blip_embeds(embeds, batch)

    def features(self, medium: Seen) -> Float[Tensor, "T P C"]:
        """What the vision tower sees in a picture or clip, before anything that depends on words."""
        if medium.is_features:
            return medium.values
        if isinstance(self.model, VideoLlava):
            tower = self.model.image_tower if medium.kind == "picture" else self.model.video_tower
            return tower.features(medium.values, self.model.feature_layer(None))
        return self.model.vision_model.features(medium.values)[0]

    def _llava_tokens(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Projected features of all pictures and of all clips, in the order in which rows show them."""
        found: list[Tensor | None] = []
        order = [index for row in batch.shown for index in row]
        for kind in ("picture", "video"):
            media = [batch.media[index] for index in order if batch.media[index].kind == kind]
            if not media:
                found.append(None)
                continue
            features = all_features(self, media)
            if kind == "picture" and self.model.config.vision_feature_select_strategy == "default":
                features = features[:, 1:]
            found.append(self.model.multi_modal_projector(features))
        return found[0], found[1]

    def _blip_embeds(self, embeds: Float[Tensor, "B L D"], batch: Batch) -> Float[Tensor, "B S D"]:
        """The Q-Former looks at each row's medium under the row's instruction; rows share the features."""
        if any(len(row) != 1 for row in batch.shown):
            raise RequestError("InstructBLIP answers about one picture or clip; a row has another number")
        model = self.model
        frames = [len(medium.values) for medium in batch.media]
        starts = [sum(frames[:index]) for index in range(len(frames))]
        counts = tuple(frames[row[0]] for row in batch.shown)
        where = [starts[row[0]] + k for row in batch.shown for k in range(frames[row[0]])]
        features = all_features(self, batch.media)
        if where != list(range(len(features))):
            features = features[torch.tensor(where, device=features.device)]
        repeats = torch.tensor(counts, device=embeds.device)
        told, mask = (
            None if one is None else one.repeat_interleave(repeats, dim=0)
            for one in (batch.told, batch.told_mask)
        )
        states = model.bridge(features, ids=told, mask=mask)
        tokens = model.language_projection(states[:, : model.query_tokens.shape[1]])
        return model.place(embeds, batch.ids, Looked(tokens, features, features[:, 0], states, counts))

    def _encoder_decoder(self, text: nn.Module, embeds: Float[Tensor, "B S D"], batch: Batch) -> Tensor:
        front = torch.tensor(batch.front, device=embeds.device)
        mask = torch.arange(embeds.shape[1], device=embeds.device) < (batch.lengths + front)[:, None]
        whole = None if bool(mask.all()) else mask
        states = text.encode(embeds, whole)
        begun = text.embed(text.shift_right(batch.labels))
        hidden = text.hidden(begun, states=states, cache=Uncached(None, whole))
        return row_losses(text, hidden, batch.labels)


def all_features(learner: Learner, media: Sequence[Seen]) -> Float[Tensor, "F P C"]:
    """The features of all frames, one after the other; those that are not known yet in one pass."""
    unknown = [medium for medium in media if not medium.is_features]
    if not unknown:
        return torch.cat([medium.values for medium in media])
    joined = torch.cat([medium.values for medium in unknown])
    computed = learner.features(Seen(unknown[0].kind, joined))
    if len(unknown) == len(media):
        return computed
    parts = iter(computed.split([len(medium.values) for medium in unknown]))
    return torch.cat([medium.values if medium.is_features else next(parts) for medium in media])


def labels_behind(batch: Batch, length: int) -> Int[Tensor, "B S"]:
    """The labels, moved behind visual tokens that stand in front of all."""
    added = length - batch.labels.shape[1]
    return F.pad(batch.labels, (added, 0), value=IGNORED) if added else batch.labels


def learned_tail(targets: Int[Tensor, "B L"]) -> int:
    """How many places there are from the first one on at which some row learns; at least one."""
    learned = (targets != IGNORED).any(dim=0)
    return targets.shape[1] - int(learned.to(torch.uint8).argmax()) if bool(learned.any()) else 1


def row_losses(
    text: nn.Module, hidden: Float[Tensor, "B L D"], targets: Int[Tensor, "B L"]
) -> Float[Tensor, "B"]:
    """The summed cross-entropy of each row, over targets that are not -100."""
    learned: Bool[Tensor, "B L"] = targets != IGNORED
    logits = text.logits(hidden[learned]).float()
    losses = F.cross_entropy(logits, targets[learned], reduction="none")
    rows = learned.nonzero()[:, 0]
    return losses.new_zeros(len(targets)).index_add(0, rows, losses)
