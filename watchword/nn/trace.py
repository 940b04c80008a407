"""What a forward pass is asked to remember: hidden states and attention weights, layer by layer."""

from dataclasses import dataclass, field

from watchword.shapes import Tensor


@dataclass
class Trace:
    """Collects on the way; a list that is None was not asked for."""

    hidden_states: list[Tensor] | None = None
    attentions: list[Tensor] | None = None
    cross_attentions: list[Tensor] | None = field(default=None)

    @classmethod
    def asked(cls, hidden_states: bool | None, attentions: bool | None) -> "Trace":
        """A trace with lists for what is wanted."""
        return cls([] if hidden_states else None, [] if attentions else None, [] if attentions else None)

    @property
    def wants_weights(self) -> bool:
        """True when attention must return its weights."""
        return self.attentions is not None

    def hidden(self, x: Tensor) -> None:
        """Remember a hidden state, if asked to."""
        if self.hidden_states is not None:
            self.hidden_states.append(x)

    def weights(self, w: Tensor | None, *, cross: bool = False) -> None:
        """Remember attention weights, if asked to."""
        kept = self.cross_attentions if cross else self.attentions
        if kept is not None and w is not None:
            kept.append(w)
