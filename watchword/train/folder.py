"""Write the embedded model as an ordinary checkpoint folder, readable here and by the reference."""

import json
from pathlib import Path
from typing import Any

import torch

from watchword.hf.generation_config import GenerationConfig
from watchword.hf.image_processing import VideoLlavaImageProcessor
from watchword.hf.processing import VideoLlavaProcessor
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.hf.video_processing import VideoLlavaVideoProcessor
from watchword.prompt import Tokenizer
from watchword.train import words
from watchword.train.lessons import Look
from watchword.train.student import demo_config

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif -%}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' %}{{ '<image>\\n' }}
{%- elif part['type'] == 'video' %}{{ '<video>\\n' }}
{%- elif part['type'] == 'text' %}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ ' ' }}
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}
"""


def write_folder(model: VideoLlavaForConditionalGeneration, folder: Path, look: Look) -> None:
    """Everything a checkpoint folder has. Towers that are one while learning become two equal copies."""
    folder.mkdir(parents=True, exist_ok=True)
    config = demo_config(look)
    apart = VideoLlavaForConditionalGeneration(config)
    apart.load_state_dict(model.state_dict())
    ids = look.ids
    apart.generation_config = GenerationConfig(
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["<pad>"],
        do_sample=False,
        max_new_tokens=32,
    )
    apart.to(torch.float32).save_pretrained(folder)
    for name, content in tokenizer_files().items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    size, crop = {"shortest_edge": look.side}, {"height": look.side, "width": look.side}
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(size=size, crop_size=crop),
        video_processor=VideoLlavaVideoProcessor(size=size, crop_size=crop),
        tokenizer=Tokenizer.from_pretrained(folder),
        patch_size=look.patch,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)


def tokenizer_files(*, processor: str = "VideoLlavaProcessor") -> dict[str, Any]:
    """Names and contents of the tokenizer's files, in a folder of that processor."""
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = words.tokenizer_json()
    decoder = {
        str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in tokenizer["added_tokens"]
    }
    return {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": roles
        | {
            "added_tokens_decoder": decoder,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1024,
            "padding_side": "left",
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": ["input_ids", "attention_mask"],
            "processor_class": processor,
        },
        "special_tokens_map.json": roles,
    }
