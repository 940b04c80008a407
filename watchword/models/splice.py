"""Visual tokens into text embeddings: where the two halves of a model meet."""

import torch

from watchword.errors import RequestError
from watchword.shapes import Bool, Float, Int, Tensor


def placeholders(
    ids: Int[Tensor, "B L"] | None,
    embeds: Float[Tensor, "B L D"],
    token_id: int,
    embedding: torch.nn.Embedding,
) -> Bool[Tensor, "B L"]:
    """True where a placeholder stands: by id, or, without ids, where an embedding is the placeholder's.

    Raises:
        RequestError: ids and embeddings that are not of the same prompt.
    """
    if ids is not None:
        if ids.shape != embeds.shape[:2]:
            raise RequestError(
                f"input_ids: shape {tuple(ids.shape)}, but the embeddings have {tuple(embeds.shape)}; "
                "expected an id for each of them; give one of both, or both of the same prompt"
            )
        return ids == token_id
    # by a call, which brings the weights where they are offloaded
    own = embedding(torch.tensor([token_id], device=embeds.device))[0].to(embeds.dtype)
    return (embeds == own).all(dim=-1)


def splice(
    embeds: Float[Tensor, "B L D"], tokens: Float[Tensor, "N D"], where: Bool[Tensor, "B L"], *, what: str
) -> Float[Tensor, "B L D"]:
    """Put visual tokens, row after row, at the marked places of the text embeddings.

    Args:
        tokens: the visual tokens of all rows, in row order.
        where: True at placeholders.
        what: "image" or "video", for the message.

    Raises:
        RequestError: the number of placeholders is not the number of tokens.

    Source: the masked_scatter step of the reference's forward passes.
    """
    marked = int(where.sum())
    if marked != len(tokens):
        per_row = where.sum(dim=1).tolist()
        raise RequestError(
            f"{what} features and {what} tokens do not match: tokens: {marked} (per row {per_row}), "
            f"features {len(tokens)}; give one {what} per placeholder, "
            "through the processor that belongs to this model"
        )
    return embeds.masked_scatter(where[..., None], tokens.to(embeds.dtype))


def finite(pixels: Float[Tensor, "..."], name: str) -> Float[Tensor, "..."]:
    """The pixels themselves, after a check that each is a number.

    Raises:
        RequestError: NaN or infinite values, which would turn every answer into noise.
    """
    if not bool(torch.isfinite(pixels).all()):
        bad = int((~torch.isfinite(pixels)).sum())
        raise RequestError(
            f"{name}: {bad} of {pixels.numel()} values are NaN or infinite; expected normalised pixels; "
            "check the frames and the processor's image_mean and image_std"
        )
    return pixels
