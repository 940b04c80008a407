"""Tiny whole checkpoints, made by the library itself: random weights, small tokenizers, real files."""

import json
from pathlib import Path

import torch

from tests.prompt.vocabularies import write_tokenizer
from watchword import config as configs
from watchword.models import build, layouts
from watchword.prompt.tokenizer import Tokenizer
from watchword.weights import files

SIZE = 28
TEXTS = {
    "llama": lambda vocabulary: configs.LlamaConfig(
        vocab_size=vocabulary, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=300, pad_token_id=-1,
    ),
    "mistral": lambda vocabulary: configs.MistralConfig(
        vocab_size=vocabulary, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=300, sliding_window=50,
    ),
    "opt": lambda vocabulary: configs.OPTConfig(
        vocab_size=vocabulary, hidden_size=24, ffn_dim=32, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=300, word_embed_proj_dim=24,
    ),
    "t5": lambda vocabulary: configs.T5Config(
        vocab_size=vocabulary, d_model=24, d_kv=6, d_ff=32, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    ),
}  # fmt: skip


def video_llava(
    folder: Path, *, text: str = "llama", dtype: torch.dtype = torch.float32, positions: int = 300, **fields
) -> Path:
    """A Video-LLaVA folder: 5 tokens a frame, 4 a picture."""
    write_tokenizer(folder, "llama")
    ids = {
        token["content"]: token["id"]
        for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": 14,
    }
    config = configs.VideoLlavaConfig(
        vision_config=vision,
        text_config=TEXTS[text](max(ids.values()) + 1),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        **fields,
    )
    config.text_config.max_position_embeddings = positions
    settings = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return _finish(folder, config, dtype)


def instructblip(
    folder: Path, *, text: str = "llama", video: bool = False, placeholders: bool = True, positions: int = 300
) -> Path:
    """An InstructBLIP or InstructBlipVideo folder: 3 tokens a frame; T5 knows no positions."""
    write_tokenizer(folder, text, extra_special_tokens={})  # as published: no name for the placeholder
    if placeholders and text != "llama":
        tokenizer = Tokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
        tokenizer.save_pretrained(folder)
    write_tokenizer(folder / "qformer_tokenizer", "bert")
    cls = configs.InstructBlipVideoConfig if video else configs.InstructBlipConfig
    state = json.loads((folder / "tokenizer.json").read_text())
    ids = {token["content"]: token["id"] for token in state["added_tokens"]}
    index = ids["<video>" if video else "<image>"] if placeholders else None
    config = cls(
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIZE,
            "patch_size": 14,
        },
        qformer_config={
            "vocab_size": 250,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 40,
        },
        text_config=TEXTS[text](600),
        num_query_tokens=3,
        **{f"{'video' if video else 'image'}_token_index": index},
    )
    if text != "t5":
        config.text_config.max_position_embeddings = positions
    name = "video_preprocessor_config.json" if video else "preprocessor_config.json"
    (folder / name).write_text(json.dumps({"size": {"height": SIZE, "width": SIZE}}))
    if placeholders:
        (folder / "processor_config.json").write_text('{"num_query_tokens": 3}')
    return _finish(folder, config, torch.float32)


def _finish(folder: Path, config, dtype: torch.dtype) -> Path:
    model = build.build(config).to_empty(device="cpu")
    model.language_model.tie_weights()
    build.initialise(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn_like(parameter) * 0.2  # fresh models repeat one token whatever they see
    config.save_pretrained(folder)
    files.save(layouts.for_disk(model, model.to(dtype).state_dict()), folder)
    return folder
