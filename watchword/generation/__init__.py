"""Logits into tokens. Ids and tensors only: no text, no pixels, no model classes."""

from watchword.generation.cache import KVCache
from watchword.generation.engine import Decoder, Generated, Prompt, Step, generate, steps
from watchword.generation.growing import GrowingCache
from watchword.generation.kept import Kept, imprint
from watchword.generation.options import GenerationOptions
from watchword.generation.requests import Job, Ticket, Token
from watchword.generation.serving import Engine, Limits

__all__ = [
    "Decoder",
    "Engine",
    "Generated",
    "GenerationOptions",
    "GrowingCache",
    "Job",
    "KVCache",
    "Kept",
    "Limits",
    "Prompt",
    "Step",
    "Ticket",
    "Token",
    "generate",
    "imprint",
    "steps",
]
