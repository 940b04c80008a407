"""Write an embedded InstructBLIP model as an ordinary checkpoint folder, readable here and by the
reference."""

import json
from pathlib import Path

import torch

from watchword.config import InstructBlipConfig
from watchword.hf.generation_config import GenerationConfig
from watchword.hf.image_processing import BlipImageProcessor
from watchword.hf.instructblip import (
    InstructBlipForConditionalGeneration,
    InstructBlipVideoForConditionalGeneration,
)
from watchword.hf.processing_instructblip import InstructBlipProcessor, InstructBlipVideoProcessor
from watchword.hf.video_processing import InstructBlipVideoVideoProcessor
from watchword.prompt import Tokenizer
from watchword.train.blip_student import blip_config
from watchword.train.folder import tokenizer_files
from watchword.train.lessons import Look

QFORMER = "qformer_tokenizer"


def write_folder(
    model: InstructBlipVideoForConditionalGeneration, folder: Path, look: Look, *, picture: bool
) -> None:
    """Everything a checkpoint folder has. Both tokenizers are the same whole words.

    Args:
        picture: write an InstructBLIP; else an InstructBlipVideo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config, size = blip_config(look), {"height": look.side, "width": look.side}
    processor_class = InstructBlipProcessor if picture else InstructBlipVideoProcessor
    for place in (folder, folder / QFORMER):
        place.mkdir(exist_ok=True)
        for name, content in tokenizer_files(processor=processor_class.__name__).items():
            (place / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    words = (Tokenizer.from_pretrained(folder), Tokenizer.from_pretrained(folder / QFORMER))
    written: InstructBlipForConditionalGeneration | InstructBlipVideoForConditionalGeneration = model
    processor: InstructBlipProcessor | InstructBlipVideoProcessor
    if picture:
        written = InstructBlipForConditionalGeneration(
            InstructBlipConfig(
                vision_config=config.vision_config.to_dict(),
                qformer_config=config.qformer_config.to_dict(),
                text_config=config.text_config.to_dict(),
                num_query_tokens=config.num_query_tokens,
                image_token_index=look.ids["<image>"],
            )
        )
        written.load_state_dict(model.state_dict())
        processor = InstructBlipProcessor(BlipImageProcessor(size=size), *words, config.num_query_tokens)
    else:
        processor = InstructBlipVideoProcessor(
            InstructBlipVideoVideoProcessor(size=size), *words, config.num_query_tokens
        )
    ids = look.ids
    written.generation_config = GenerationConfig(
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["<pad>"],
        do_sample=False,
        max_new_tokens=32,
    )
    written.to(torch.float32).save_pretrained(folder)
    processor.save_pretrained(folder)
