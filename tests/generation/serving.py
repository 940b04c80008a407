"""Tiny models of every family, jobs for them, and what each job's answer is alone."""

from dataclasses import dataclass, field

import torch

from watchword.config import LlamaConfig, MistralConfig, OPTConfig, T5Config
from watchword.generation.engine import Prompt, generate
from watchword.generation.options import GenerationOptions
from watchword.generation.prefix import Key
from watchword.generation.requests import Job
from watchword.models.language import initialise, language_model
from watchword.shapes import Tensor

SIZE = dict(vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
CONFIGS = {
    "llama": LlamaConfig(**SIZE, intermediate_size=40, num_key_value_heads=2),
    "mistral": MistralConfig(**SIZE, intermediate_size=40, num_key_value_heads=1, sliding_window=7),
    "opt": OPTConfig(**SIZE, ffn_dim=40, max_position_embeddings=120),
    "t5": T5Config(
        vocab_size=40, d_model=24, d_kv=8, d_ff=36, num_layers=2, num_heads=3,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0,
    ),
}  # fmt: skip
_MADE: dict[str, torch.nn.Module] = {}


def tiny(name: str) -> torch.nn.Module:
    """A model whose answers are not all alike."""
    if name not in _MADE:
        state = torch.random.get_rng_state()
        torch.manual_seed(len(name))
        model = language_model(CONFIGS[name]).eval().requires_grad_(False)
        initialise(model)
        for parameter in model.parameters():
            parameter += 0.4 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.25
        _MADE[name] = model
        torch.random.set_rng_state(state)
    return _MADE[name]


@dataclass
class Asked:
    """One request in plain values, from which both the job and its answer alone are made."""

    name: str
    ids: tuple[int, ...]
    options: GenerationOptions
    seed: int | None = None
    scope: str | None = None
    keys: tuple[Key, ...] | None = None
    embedded: list[tuple[int, int]] = field(default_factory=list)

    @property
    def start(self) -> tuple[int, ...] | None:
        return (0,) if self.name == "t5" else None

    def embeds(self) -> Tensor:
        return tiny(self.name).embed(torch.tensor([self.ids]))

    def job(self, **changes) -> Job:
        whole = self.embeds()

        def embed(start: int, end: int) -> Tensor:
            self.embedded.append((start, end))
            return whole[:, start:end]

        settings = dict(
            embed=embed, length=len(self.ids), options=self.options, start_ids=self.start, seed=self.seed,
            history=self.start or self.ids, encoder_ids=self.ids,
        )  # fmt: skip
        if self.scope is not None:
            settings |= dict(keys=self.keys or self.ids, scope=self.scope)
        return Job(**settings | changes)

    def alone(self) -> list[list[int]]:
        """What the lock-step loop answers, cut after the end tokens."""
        start = None if self.start is None else torch.tensor([self.start])
        ids = torch.tensor([self.ids])
        prompt = Prompt(self.embeds(), torch.tensor([len(self.ids)]), ids if start is None else start,
                        start_ids=start, encoder_ids=ids)  # fmt: skip
        with torch.random.fork_rng([]):
            if self.seed is not None:
                torch.manual_seed(self.seed)
            found = generate(tiny(self.name), prompt, self.options)
        rows = found.sequences.tolist()
        if found.beam_indices is not None:
            return [row[: int((beams >= 0).sum())] for row, beams in zip(rows, found.beam_indices)]
        return [self._cut(row) for row in rows]

    def _cut(self, row: list[int]) -> list[int]:
        ends = [place for place, token in enumerate(row) if token in self.options.eos_token_ids]
        return row[: ends[0] + 1] if ends else row
