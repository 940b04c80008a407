"""Tokenizer folders: what is in them, and how they are written.

Both dialects of the reference are read: 4.x (named tokens inside `extra_special_tokens`, additional ones in
`additional_special_tokens`) and 5.x (named tokens beside the standard ones, `extra_special_tokens` a list).
The 4.x dialect is written, since both read it.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from watchword.errors import CheckpointError

STANDARD = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
IDS_AND_MASK = ("input_ids", "attention_mask")
CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaTokenizer": {
        "model_input_names": IDS_AND_MASK,
        "padding_side": "left",
        "add_bos_token": True,
        "add_eos_token": False,
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    },
    "T5Tokenizer": {
        "model_input_names": IDS_AND_MASK,
        "extra_ids": 100,
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    },
    "GPT2Tokenizer": {
        "model_input_names": IDS_AND_MASK,
        "unk_token": "<|endoftext|>",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    },
    "BertTokenizer": {
        "do_lower_case": True,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    },
    "TokenizersBackend": {"model_input_names": IDS_AND_MASK},
}
"""What files of a class leave out because it is that class's default; a name that is not here has none of its
own."""

NAMES_OF_5 = {"TokenizersBackend": "PreTrainedTokenizerFast"}
NOT_SETTINGS = (
    "added_tokens_decoder",
    "tokenizer_class",
    "tokenizer_file",
    "init_inputs",
    "name_or_path",
    "vocab_file",
    "merges_file",
    "special_tokens_map_file",
    "auto_map",
    "backend",
    "processor_class",
    "is_local",
    "local_files_only",
)
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def read_settings(folder: Path) -> tuple[dict[str, Any], str | None, dict[int, AddedToken]]:
    """Settings, class name and added tokens that a folder's JSON files declare, in one spelling."""
    config = _read_json(folder / "tokenizer_config.json")
    class_name = (config.get("tokenizer_class") or "").removesuffix("Fast") or None
    if "added_tokens_decoder" in config:
        added = {
            int(index): AddedToken(**_plain(token)) for index, token in config["added_tokens_decoder"].items()
        }
    else:  # folders from before that field: two more files
        config.update(_read_json(folder / "special_tokens_map.json"))
        special = {_content(value) for name, value in config.items() if name in STANDARD and value}
        special |= {_content(token) for token in config.get("additional_special_tokens") or []}
        added = {
            index: AddedToken(token, normalized=token not in special, special=token in special)
            for token, index in _read_json(folder / "added_tokens.json").items()
        }
    settings = {name: _tokens(value) for name, value in config.items() if name not in NOT_SETTINGS}
    _one_spelling(settings)
    templates = read_templates(folder)
    if templates is not None:
        settings["chat_template"] = templates
    return settings, class_name, added


def read_templates(folder: Path) -> str | dict[str, str] | None:
    """The chat templates that stand in files of their own: one as a string, several as a mapping by name."""
    found = {
        file.stem: file.read_text("utf-8")
        for file in sorted(folder.glob("additional_chat_templates/*.jinja"))
    }
    if (folder / "chat_template.jinja").is_file():
        found["default"] = (folder / "chat_template.jinja").read_text("utf-8")
    return found["default"] if list(found) == ["default"] else found or None


def read_backend(folder: Path, class_name: str | None, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The tokenizer proper: tokenizer.json, or one built from plain vocabulary files.

    Raises:
        CheckpointError: none of these is there, or the file is damaged.
    """
    if (folder / "tokenizer.json").is_file():
        try:
            return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f"{folder / 'tokenizer.json'}: not a tokenizer file that tokenizers {tokenizers.__version__} "
                "reads "
                f"({error}); download it again"
            ) from error
    if (folder / "vocab.txt").is_file():
        return _word_pieces(folder / "vocab.txt", settings)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _byte_pairs(folder, class_name, settings)
    pieces = next((name for name in SENTENCEPIECE if (folder / name).is_file()), None)
    if pieces is None:
        raise CheckpointError(
            f"{folder}: no tokenizer; expected tokenizer.json, or vocab.txt, or vocab.json with merges.txt"
        )
    raise CheckpointError(
        f"{folder}: only the sentencepiece file {pieces}, expected tokenizer.json; convert it once with "
        "transformers and "
        "sentencepiece installed: AutoTokenizer.from_pretrained(folder, "
        "use_fast=True).save_pretrained(folder)"
    )


def class_of_files(folder: Path, class_name: str | None) -> str | None:
    """The class whose defaults hold when a folder names none: files without tokenizer.json imply it."""
    if class_name is not None or (folder / "tokenizer.json").is_file():
        return class_name
    return "BertTokenizer" if (folder / "vocab.txt").is_file() else "GPT2Tokenizer"


def write_folder(
    folder: Path,
    backend: tokenizers.Tokenizer,
    settings: Mapping[str, Any],
    special: Mapping[str, Any],
    named: Mapping[str, Any],
    class_name: str | None,
    source: Path | None,
) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat templates."""
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(settings) | dict(special)
    template = config.pop("chat_template", None)
    config["extra_special_tokens"] = dict(named)
    config["added_tokens_decoder"] = {
        str(index): _state(token) for index, token in sorted(backend.get_added_tokens_decoder().items())
    }
    config["tokenizer_class"] = NAMES_OF_5.get(class_name or "", class_name or "PreTrainedTokenizerFast")
    _write_json(folder / "tokenizer_config.json", _json_ready(config, typed=True))
    present = {role: value for role, value in {**special, **named}.items() if value}
    _write_json(folder / "special_tokens_map.json", _json_ready(present, typed=False))
    backend.save(str(folder / "tokenizer.json"))
    write_templates(folder, template)
    for name in SENTENCEPIECE:  # older readers want it; it is never changed
        if source is not None and (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)


def write_templates(folder: Path, template: str | Mapping[str, str] | None) -> None:
    """Chat templates as files: the default one as chat_template.jinja, others in
    additional_chat_templates/."""
    templates = {"default": template} if isinstance(template, str) else dict(template or {})
    for name, text in templates.items():
        target = folder / "chat_template.jinja"
        if name != "default":
            target = folder / "additional_chat_templates" / f"{name}.jinja"
            target.parent.mkdir(exist_ok=True)
        target.write_text(text, "utf-8")


# ---- built from plain vocabularies ---------------------------------------------------------------


def _word_pieces(file: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """BERT's WordPiece from vocab.txt."""
    words = file.read_text("utf-8").split("\n")
    vocabulary = {
        word.rstrip("\r"): index for index, word in enumerate(words) if word or index + 1 < len(words)
    }
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=str(settings["unk_token"])))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=settings["do_lower_case"],
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = str(settings["cls_token"]), str(settings["sep_token"])
    for token in (cls, sep):
        if token not in vocabulary:
            raise CheckpointError(
                f"{file}: has no {token}, which frames every text; is it a BERT vocabulary?"
            )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _byte_pairs(folder: Path, class_name: str | None, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """GPT-2's and OPT's byte-level BPE from vocab.json and merges.txt."""
    vocabulary = _read_json(folder / "vocab.json")
    if class_name != "GPT2Tokenizer" or any(word.endswith("</w>") for word in vocabulary):
        raise CheckpointError(
            f"{folder}: vocab.json and merges.txt of a {class_name}, and only GPT-2's and OPT's byte-level "
            "BPE is built "
            "from them; expected tokenizer.json, which "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of "
            "transformers writes"
        )
    lines = (folder / "merges.txt").read_text("utf-8").split("\n")
    merges = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    backend = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", end_of_word_suffix="")
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space")))
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    if settings.get("add_bos_token"):
        bos = str(settings["bos_token"])
        if bos not in vocabulary:
            raise CheckpointError(
                f"{folder / 'vocab.json'}: has no {bos!r}, the bos_token that every text begins with"
            )
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos}:0 $A:0", pair=f"{bos}:0 $A:0 $B:1", special_tokens=[(bos, vocabulary[bos])]
        )
    return backend


# ---- spellings -----------------------------------------------------------------------------------


def _one_spelling(settings: dict[str, Any]) -> None:
    """Named tokens into `named`, additional ones into `additional_special_tokens`, whichever dialect they
    came in."""
    extra = settings.pop("extra_special_tokens", None) or {}
    named = dict(settings.pop("model_specific_special_tokens", None) or {})
    if isinstance(extra, Mapping):
        named.update(extra)
    else:
        settings["additional_special_tokens"] = [*(settings.get("additional_special_tokens") or []), *extra]
    for name in list(settings):
        if name.endswith("_token") and name not in STANDARD and isinstance(settings[name], str | AddedToken):
            named.setdefault(name, settings[name])
            del settings[name]
    settings["named"] = named


def _tokens(value: Any) -> Any:
    """JSON values with every serialized added token, at any depth, as AddedToken."""
    if isinstance(value, dict) and "content" in value and {"lstrip", "rstrip"} <= set(value):
        return AddedToken(**_plain(value))
    if isinstance(value, dict):
        return {name: _tokens(entry) for name, entry in value.items()}
    return [_tokens(entry) for entry in value] if isinstance(value, list) else value


def _plain(token: dict[str, Any]) -> dict[str, Any]:
    """The constructor arguments of a serialized added token; files of older versions leave `special` out."""
    known = {
        name: token[name]
        for name in ("content", "single_word", "lstrip", "rstrip", "normalized")
        if name in token
    }
    return known | {"special": token.get("special", True)}


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _state(token: AddedToken) -> dict[str, Any]:
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in fields}


def _json_ready(value: Any, typed: bool) -> Any:
    if isinstance(value, AddedToken):
        state = _state(value)
        if not typed:
            del state["special"]
        return state | ({"__type": "AddedToken"} if typed else {})
    if isinstance(value, Mapping):
        return {name: _json_ready(entry, typed) for name, entry in value.items()}
    return [_json_ready(entry, typed) for entry in value] if isinstance(value, list | tuple) else value


def _read_json(file: Path) -> dict[str, Any]:
    """An absent file is an empty one."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{file}: holds a {type(value).__name__}, expected a JSON object; download it again"
        )
    return value


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
