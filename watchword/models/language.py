"""Which class implements which text model: the one place that chooses by `model_type`."""

from torch import nn

from watchword.config import Config
from watchword.errors import ConfigError
from watchword.models import llama, opt, t5

TEXT_MODELS = {
    "llama": (llama.Llama, llama.initialise),
    "mistral": (llama.Llama, llama.initialise),
    "opt": (opt.Opt, opt.initialise),
    "t5": (t5.T5, t5.initialise),
}
"""model_type → class, and the function that gives a model of that class fresh values."""


def language_model(config: Config, *, head: bool = True, backend: str = "sdpa") -> nn.Module:
    """The text model that a text config describes.

    Raises:
        ConfigError: a model type that is not implemented; the message lists those that are.
    """
    if config.model_type not in TEXT_MODELS:
        raise ConfigError(
            f"text_config.model_type {config.model_type!r}: not implemented; "
            f"known are {', '.join(TEXT_MODELS)}"
        )
    return TEXT_MODELS[config.model_type][0](config, head=head, backend=backend)


def initialise(model: nn.Module) -> None:
    """Fresh values for a text model, by its own rules."""
    TEXT_MODELS[model.config.model_type][1](model)
