"""A documented model's tokens: the embedding, the head, and another number of them."""

import numbers
from typing import Any

import torch
from torch import nn

from watchword.errors import RequestError
from watchword.nn.layers import looked_up
from watchword.shapes import Float, Int, Tensor

RESIZE = "if tokens were added to the tokenizer, resize_token_embeddings first"


class Vocabulary:
    """Mixin over a core family, or a part with an embedding of its own."""

    config: Any
    language_model: Any

    def get_input_embeddings(self) -> nn.Module:
        """The text model's token embedding."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the text model's token embedding."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """The language-model head; None for a model without one."""
        return getattr(getattr(self, "language_model", None), "lm_head", None)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the language-model head.

        Raises:
            RequestError: the model has none.
        """
        if self.get_output_embeddings() is None:
            raise RequestError(
                f"set_output_embeddings: {type(self).__name__} has no head; expected one of the "
                "ForConditionalGeneration classes; use that"
            )
        self.language_model.lm_head = value

    def tie_weights(self) -> None:
        """Make the weights share what the config says they share."""
        if hasattr(self, "language_model"):
            self.language_model.tie_weights()

    def embedded(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Ids to embeddings.

        Raises:
            RequestError: an id that the vocabulary does not have (on a CPU; a card says so itself, later).
        """
        text = self.language_model
        return looked_up(text.embed, ids, text.get_input_embeddings(), "input_ids", RESIZE)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Module:
        """Give the vocabulary another size: old rows stay, new rows are drawn around the mean of the old.

        Args:
            new_num_tokens: rows of the embedding and of the head; None leaves the size, up to the padding.
            pad_to_multiple_of: round the size up to a multiple of this.
            mean_resizing: draw new rows from a normal distribution with the old rows' mean and covariance;
                False draws them from the text model's own initialisation.

        Returns:
            The embedding.

        Raises:
            RequestError: a size that is no whole number from 1 up; a model without tokens, or quantized.
        """
        for name, given in (("new_num_tokens", new_num_tokens), ("pad_to_multiple_of", pad_to_multiple_of)):
            whole = isinstance(given, numbers.Integral) and not isinstance(given, bool)
            if given is not None and not (whole and given > 0):
                raise RequestError(
                    f"resize_token_embeddings: {name}={given!r}; expected a whole number from 1 up, or None"
                )
        old = self.get_input_embeddings()
        if not hasattr(old, "num_embeddings"):
            raise RequestError(
                f"resize_token_embeddings: the embedding of {type(self).__name__} is a {type(old).__name__}; "
                "expected a table of tokens; use the model that has one"
            )
        if getattr(self, "quantization", None) is not None:
            raise RequestError(
                f"resize_token_embeddings: the model is quantized ({self.quantization.form}); expected a "
                "dense one; resize and save that, and quantize the folder"
            )
        size = old.num_embeddings if new_num_tokens is None else int(new_num_tokens)
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        if size != old.num_embeddings:
            config = getattr(self.config, "text_config", self.config)
            std = 0.0 if mean_resizing else getattr(config, "initializer_range", 0.02)
            resized = resize_rows(old.weight, size, std)
            head = self.get_output_embeddings()
            shared = head is not None and head.weight is old.weight
            old.weight, old.num_embeddings = resized, size
            if head is not None:
                head.weight = resized if shared else resize_rows(head.weight, size, std)
                head.out_features = size
            self.tie_weights()
            config.vocab_size = size
        return old


@torch.no_grad()
def resize_rows(table: nn.Parameter, size: int, std: float) -> nn.Parameter:
    """The table with `size` rows. New rows: normal(0, std), or around the old rows' mean when std is 0."""
    old, width = table.shape
    new = table.new_empty(size, width)
    new[: min(old, size)] = table[:size]
    if size > old and std:
        new[old:].normal_(std=std)
    elif size > old:
        mean = table.float().mean(0)
        centred = table.float() - mean
        draws = (
            torch.randn(size - old, old, device=table.device) @ centred / old**0.5
        )  # covariance of the old rows
        new[old:] = (mean + 1e-9**0.5 * draws).to(table.dtype)
    return nn.Parameter(new, requires_grad=table.requires_grad)
