"""What every documented model class can do: load, save, report and change itself. All calls into rooms."""

import copy
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from watchword.config.fields import Config
from watchword.errors import ConfigError, MissingExtra, RequestError, UnknownArgument, refuse_unknown
from watchword.hf import quantization
from watchword.hf.generation import GenerationConfig
from watchword.hf.outputs import ModelOutput
from watchword.hf.vocabulary import Vocabulary
from watchword.models import build, layouts
from watchword.models.mapped import homes
from watchword.nn.attention import BACKENDS
from watchword.nn.flash import check_flash, import_flash
from watchword.shapes import Tensor
from watchword.weights import files, hub, load, packed
from watchword.weights.quantize import quantized

logger = logging.getLogger(__name__)

HUB_ARGUMENTS = ("revision", "token", "local_files_only", "cache_dir")


class Pretrained(Vocabulary):
    """Mixin over a core family or part. Adds names, never arithmetic.

    A class states its `config_class`; `from_pretrained` and `save_pretrained` use the layout tables of
    `models.layouts`.
    """

    config_class: ClassVar[type]
    base_model_prefix: ClassVar[str] = ""
    main_input_name: ClassVar[str] = "pixel_values"
    supports_gradient_checkpointing: ClassVar[bool] = True

    # ---- making --------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        config: object = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        device_map: object = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        offload_folder: str | os.PathLike | None = None,
        attn_implementation: str | None = None,
        quantization_config: object = None,
        generation_config: GenerationConfig | None = None,
        **kwargs,
    ) -> "Pretrained":
        """The model in a checkpoint folder (or hub repository), in eval mode.

        Args:
            config: instead of the folder's config.json.
            dtype: type of the weights in memory: a torch dtype, its name, or "auto" for what the config or
                the files say. float32 when not given, whatever the files hold. `torch_dtype` is the older
                name.
            device_map: a device; "auto" (one card if it holds the model, else several, the host, the disk;
                without a card mps, else cpu); or a mapping from parts to devices. See `models.mapped.homes`.
            max_memory, offload_folder: for device_map.
            attn_implementation: "eager", "sdpa" (default), "flash_attention_2", or "blocked": as "sdpa", but
                several times faster in bfloat16 on a CPU.
            quantization_config: a `BitsAndBytesConfig`, or such as a dictionary.
            **kwargs: `quantize` is "int8", "int4" or "nf4", see docs/quantization.md; `revision`, `token`,
                `local_files_only`, `cache_dir` for the hub; any other name must be a field of the config,
                which it overrides.

        Raises:
            CheckpointError: files missing, or tensors that do not fit the model; the message names them.
            ConfigError: a config that is not this class's, or with fields that are not implemented.
            MissingExtra: an attention implementation without its package, several devices without accelerate.
        """
        recipe = quantization.recipe_of(quantization_config, kwargs.pop("quantize", None))
        folder = hub.fetch(
            pretrained_model_name_or_path, **{k: kwargs.pop(k) for k in HUB_ARGUMENTS if k in kwargs}
        )
        config = cls.read_config(folder, config, kwargs)
        source = files.open_weights(folder)
        dtype = chosen_dtype(dtype if dtype is not None else torch_dtype, config, source)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        if cls.backend_of(config) == "flash_attention_2":
            check_flash(dtype)
        with build.nowhere():
            model = cls(config)
        spots = homes(
            model,
            torch.get_default_device() if device_map is None else device_map,
            dtype=dtype,
            max_memory=max_memory,
            offload_folder=offload_folder,
            whole=packed.is_quantized(config, recipe),
        )
        spelled = layouts.of(model)
        place, source = packed.quantizing(model, source, recipe, spots, spelled["layouts"], dtype)
        report = load.load_weights(
            model, source, dtype=dtype, place=place.place, as_stored=getattr(place, "as_stored", None),
            by_row=getattr(place, "by_row", None), **spelled,
        )  # fmt: skip
        place.settle(model)
        logger.info("%s: %s", folder, report)
        model.generation_config = generation_config or GenerationConfig.from_folder(folder, config, **kwargs)
        model.name_or_path = str(pretrained_model_name_or_path)
        return model.eval()

    @classmethod
    def read_config(cls, folder: Path, config: object, overrides: dict[str, Any]) -> object:
        """The config to build from: the folder's or a copy of the given one, with overridden fields."""
        if config is None or isinstance(config, str | os.PathLike):
            config = cls.config_class.from_pretrained(folder if config is None else config)
        config = cls.checked(config)
        ours = isinstance(config, Config)
        config = copy.deepcopy(config) if ours else cls.config_class.from_dict(config.to_dict())
        for name, value in overrides.items():
            if name in ("load_in_4bit", "load_in_8bit"):
                given = f"BitsAndBytesConfig({name}={value!r})"
                raise UnknownArgument(f"from_pretrained: {name}: give quantization_config={given}")
            if not config.has(name):
                own = (
                    "config",
                    "dtype",
                    "device_map",
                    "attn_implementation",
                    "quantization_config",
                    "quantize",
                )
                known = [*HUB_ARGUMENTS, *own, *config.to_dict()]
                refuse_unknown(f"from_pretrained with a {type(config).__name__}", [name], known)
        config.override(overrides)
        return config

    @classmethod
    def checked(cls, config: Any) -> Any:
        """The config, if it is one of this class's, or such a one of transformers.

        Raises:
            ConfigError: it is not.
        """
        wanted = cls.config_class
        if not isinstance(config, wanted) and getattr(config, "model_type", None) not in fitting(wanted):
            found = type(config)
            raise ConfigError(
                f"{cls.__name__}: config is a {found.__module__}.{found.__qualname__}; expected "
                f"{wanted.__name__}"
            )
        return config

    @classmethod
    def backend_of(cls, config: object) -> str:
        """The attention backend that the config asks for, checked.

        Raises:
            ConfigError: a name that is not implemented; a config of another class.
            MissingExtra: FlashAttention without its package or a GPU.
        """
        name = getattr(cls.checked(config), "_attn_implementation", None) or "sdpa"
        if name not in BACKENDS:
            raise ConfigError(
                f"attn_implementation {name!r}: not implemented; use one of {', '.join(BACKENDS)}"
            )
        if name == "flash_attention_2":
            import_flash()
            if not torch.cuda.is_available():
                raise MissingExtra(
                    "attn_implementation='flash_attention_2': needs an NVIDIA GPU and none was found; "
                    "use 'sdpa'"
                )
        return name

    def fresh(self, initialise: Callable[[nn.Module], None]) -> None:
        """Give a model built from a config its first values; one that is about to be loaded gets none."""
        if next(self.parameters()).device.type != "meta":
            initialise(self)
        self.generation_config = GenerationConfig.from_model_config(self.config)

    # ---- saving --------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        safe_serialization: bool = True,
    ) -> None:
        """Write config.json, generation_config.json and the weights, as the reference reads them too."""
        state = dict(self.state_dict() if state_dict is None else state_dict)
        if away := [name for name, tensor in state.items() if tensor.is_meta]:
            raise RequestError(
                f"save_pretrained: {len(away)} tensors are offloaded, the first is {away[0]!r}; expected all "
                "values in memory; load without device_map to save"
            )
        state = layouts.for_disk(self, state)
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self).__name__]
        self.config.dtype = str(self.dtype).removeprefix("torch.")
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        files.save(
            state,
            folder,
            max_shard_size=max_shard_size,
            safe_serialization=safe_serialization,
        )

    # ---- what callers touch --------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the parameters are; with several devices, where inputs belong."""
        return getattr(self, "home", None) or next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, those that stay float32 in a float16 model left out."""
        kept = layouts.of(self).get("keep_in_fp32", ())
        names = ((name, p) for name, p in self.named_parameters() if p.is_floating_point())
        return next(p.dtype for name, p in names if not any(part in kept for part in name.split(".")))

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the model holds; shared ones once, those in few bits too."""
        tables = (
            {m.weight for m in self.modules() if isinstance(m, nn.Embedding)} if exclude_embeddings else set()
        )
        packed = sum(one.in_features * one.out_features for _, one in quantized(self))
        return (0 if only_trainable else packed) + sum(
            p.numel()
            for p in self.parameters()
            if p not in tables and (p.requires_grad or not only_trainable)
        )

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        """Keep no activations of layers during training; compute them again on the way back."""
        if gradient_checkpointing_kwargs not in (None, {}, {"use_reentrant": False}):
            raise RequestError(
                f"gradient_checkpointing_kwargs {gradient_checkpointing_kwargs}: "
                "only {'use_reentrant': False} is known"
            )
        self._checkpoint(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self._checkpoint(False)

    def _checkpoint(self, on: bool) -> None:
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = on

    # ---- for the documented forward passes -----------------------------------------------------------------

    def wanted(self, output_attentions: bool | None, output_hidden_states: bool | None) -> tuple[bool, bool]:
        """The two questions of a forward pass, with the config's answers where the caller gave none."""
        return (
            self.config.output_attentions if output_attentions is None else output_attentions,
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states,
        )

    def returned(self, output: ModelOutput, return_dict: bool | None) -> ModelOutput | tuple:
        """The output, or its tuple where the caller or the config wants that."""
        as_dict = self.config.use_return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


def fitting(config_class: type) -> set[str]:
    """Types of configs that a class's model is built from."""
    return {config_class.model_type, *config_class.kin}


def known_only(model: object, kwargs: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """The keyword arguments of a documented `forward`, after a check that each is known.

    Raises:
        UnknownArgument: one is not; the message names the nearest that is.
    """
    documented = [name for name in type(model).forward.__annotations__ if name != "return"]
    for name in kwargs:
        if name not in known:
            refuse_unknown(f"{type(model).__name__}.forward", [name], [*documented, *known])
    return dict(kwargs)


def chosen_dtype(asked: torch.dtype | str | None, config: object, source: object) -> torch.dtype:
    """The type to load weights in."""
    if isinstance(asked, torch.dtype) and asked.is_floating_point:
        return asked
    if asked is None:
        return torch.get_default_dtype()
    name = (getattr(config, "dtype", None) or source.dtype) if asked == "auto" else asked
    found = name if isinstance(name, torch.dtype) else getattr(torch, str(name).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(
            f"dtype {name!r}: not a floating torch dtype; use torch.float32, torch.bfloat16, torch.float16 "
            "or 'auto'"
        )
    return found
