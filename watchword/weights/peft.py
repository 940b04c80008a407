"""adapter_config.json of the PEFT format: what a LoRA adapter says about itself.

What is not implemented is refused by name, for each such option would change the answers. Fields that are not
known are refused unless they are off.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchword.errors import CheckpointError, ConfigError

FILE = "adapter_config.json"

OFF: tuple[Any, ...] = (None, False, "none", 0, [], {})
"""Values by which an option says that it is not used."""

HARMLESS = (
    "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
)  # fmt: skip
"""Fields that change nothing once an adapter is trained."""

READ = (
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules",
    "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "init_lora_weights",
)  # fmt: skip

PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the base model as it is; others take a part out of it."""


@dataclass(frozen=True)
class LoraConfig:
    """A LoRA adapter as its file describes it. Names of modules are those of the reference's classes.

    Attributes:
        rank, alpha, dropout, rslora: see `nn.lora.Lora`.
        targets: a regular expression for whole names, ends of names, or "all-linear".
        exclude: the same for what is left out again.
        ranks, alphas: other values, by patterns for the ends of names.
        layers: only layers of these numbers; None for all.
        lists: names of the lists that layers are counted in.
        base: the checkpoint that it was trained on, as the file says.
        made_for: the reference's class of that model, as the file says.
    """

    rank: int
    alpha: float
    targets: str | Sequence[str]
    dropout: float = 0.0
    rslora: bool = False
    exclude: str | Sequence[str] | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    layers: Sequence[int] | None = None
    lists: Sequence[str] = ()
    base: str = ""
    made_for: str = ""

    def rank_of(self, name: str) -> int:
        """The rank for a module."""
        return int(_by_pattern(self.ranks, name, self.rank))

    def alpha_of(self, name: str) -> float:
        """The alpha for a module."""
        return float(_by_pattern(self.alphas, name, self.alpha))

    def means(self, name: str) -> bool:
        """Whether a linear of this name is a target."""
        if self.exclude and _fits(self.exclude, name):
            return False
        if self.targets == "all-linear":
            return name.rpartition(".")[2] != "lm_head"
        if not _fits(self.targets, name):
            return False
        if self.layers is None:
            return True
        lists = "|".join(map(re.escape, self.lists)) or r"[^.]+"
        found = re.match(rf"(?:.*\.)?(?:{lists})\.(\d+)\.", name)
        return found is not None and int(found[1]) in self.layers


def _by_pattern(patterns: Mapping[str, float], name: str, default: float) -> float:
    """The first pattern that fits a name or its end. Source: get_pattern_key in PEFT's documentation."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def _fits(wanted: str | Sequence[str], name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def read(folder: Path) -> LoraConfig:
    """The config of an adapter's folder.

    Raises:
        CheckpointError: no such file, or it is no JSON, or fields are missing or of the wrong kind.
        ConfigError: an option that is not implemented.
    """
    path = folder / FILE
    if not path.is_file():
        inside = sorted(one.name for one in folder.iterdir())
        raise CheckpointError(
            f"{folder}: no {FILE}; found {', '.join(inside[:10]) or 'an empty folder'}; expected an adapter "
            "in the PEFT format"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: not JSON ({error}); expected an adapter's config; get it again"
        ) from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: holds a {type(raw).__name__}; expected a JSON object; get it again")
    _refuse_unimplemented(path, raw)
    try:
        return _parsed(raw)
    except (KeyError, TypeError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{path}: damaged ({type(error).__name__}: {error}); expected r, lora_alpha and target_modules "
            "as PEFT writes them; get it again"
        ) from error


def _refuse_unimplemented(path: Path, raw: Mapping[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise ConfigError(
            f"{path}: peft_type {raw.get('peft_type')!r} is not implemented; only LORA is; merge the adapter "
            "into its model with PEFT, and load that"
        )
    for name, value in raw.items():
        if name not in (*READ, *HARMLESS) and value not in OFF:
            raise ConfigError(
                f"{path}: {name} {value!r} is not implemented; merge the adapter into its model with PEFT, "
                "and load that"
            )
    start = raw.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise ConfigError(
            f"{path}: init_lora_weights {start!r} changes the base model too and is not implemented; convert "
            "the adapter to a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        )


def _parsed(raw: Mapping[str, Any]) -> LoraConfig:
    layers, lists = raw.get("layers_to_transform"), raw.get("layers_pattern") or []
    config = LoraConfig(
        rank=_number(raw, "r", int),
        alpha=_number(raw, "lora_alpha", float),
        dropout=_number(raw, "lora_dropout", float) if "lora_dropout" in raw else 0.0,
        rslora=bool(raw.get("use_rslora")),
        targets=_names(raw["target_modules"]),
        exclude=_names(raw["exclude_modules"]) if raw.get("exclude_modules") else None,
        ranks=dict(raw.get("rank_pattern") or {}),
        alphas=dict(raw.get("alpha_pattern") or {}),
        layers=[layers] if isinstance(layers, int) else layers,
        lists=[lists] if isinstance(lists, str) else lists,
        base=str(raw.get("base_model_name_or_path") or ""),
        made_for=str((raw.get("auto_mapping") or {}).get("base_model_class") or ""),
    )
    config.means("a.b")  # bad patterns show here
    config.rank_of("a.b"), config.alpha_of("a.b")
    return config


def _number(raw: Mapping[str, Any], name: str, kind: type) -> Any:
    value = raw[name]
    if isinstance(value, bool) or not isinstance(value, int | kind):
        raise ValueError(f"{name} is {value!r}")
    return kind(value)


def _names(value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError(f"names of modules are {value!r}")
    return value


def written(
    parts: Mapping[str, tuple[int, float]],
    targets: Sequence[str],
    *,
    dropout: float,
    rslora: bool,
    base: str,
    made_for: tuple[str, str],
) -> dict[str, Any]:
    """The file's content.

    Args:
        parts: rank and alpha of each module.
        targets: what to call the modules.
        base: the checkpoint they belong to.
        made_for: the reference's class of the model, and its module.
    """
    rank = Counter(rank for rank, _ in parts.values()).most_common(1)[0][0]
    alpha = Counter(alpha for _, alpha in parts.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {"base_model_class": made_for[0], "parent_library": made_for[1]},
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "target_modules": list(targets),
        "rank_pattern": {name: r for name, (r, _) in parts.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in parts.items() if a != alpha},
    }
