"""Checkpoint folders of the real shapes with random weights, written as fast as the disk takes them.

    python -m benchmarks.folders video_llava FOLDER --layers 32     # Video-LLaVA-7B, 14.7 GB
    python -m benchmarks.folders instructblip FOLDER --layers 32    # InstructBLIP-Vicuna-7B, 15.9 GB

`--layers` and `--vision-layers` shrink them; speed does not care about values. bfloat16, in shards of 2 GB.
The tokenizer is a list of 32,000 words, `w3` to `w31999`, one token each.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import watchword
from watchword.models import build
from watchword.shapes import Tensor

SHARD = 2_000_000_000
TEXT = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "max_position_embeddings": 4096,
}  # fmt: skip


def config(family: str, layers: int, vision_layers: int | None):
    """The published shapes."""
    if family == "video_llava":
        text = TEXT | {"vocab_size": 32064, "num_hidden_layers": layers, "pad_token_id": 32002}
        made = watchword.VideoLlavaConfig(text_config=text, image_token_index=32000, video_token_index=32001)
    else:
        text = TEXT | {"vocab_size": 32001, "num_hidden_layers": layers, "pad_token_id": 32000}
        made = watchword.InstructBlipConfig(text_config=text, image_token_index=32000)
    if vision_layers is not None:
        made.vision_config.num_hidden_layers = vision_layers
    return made


def write_weights(model: torch.nn.Module, folder: Path) -> int:
    """Random weights in bfloat16, norms one and biases zero; returns their bytes.

    Written block by block: nothing of the model is ever in memory.
    """
    noise = (torch.randn(2**24, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
    fills = {"noise": noise, "one": torch.ones_like(noise), "zero": torch.zeros_like(noise)}
    blocks = {kind: one.view(torch.uint8).numpy().tobytes() for kind, one in fills.items()}
    state = model.state_dict()
    shards: list[list[str]] = [[]]
    room = SHARD
    for name, value in state.items():
        size = 2 * value.numel()
        if size > room and shards[-1]:
            shards.append([])
            room = SHARD
        shards[-1].append(name)
        room -= size
    index = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        index |= dict.fromkeys(names, file)
        write_shard(folder / file, {name: state[name] for name in names}, blocks)
    total = 2 * sum(value.numel() for value in state.values())
    table = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table))
    return total


def write_shard(path: Path, tensors: dict[str, Tensor], blocks: dict[str, bytes]) -> None:
    """One safetensors file: length of the header, header, values."""
    header, at = {}, 0
    for name, value in tensors.items():
        end = at + 2 * value.numel()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, value in tensors.items():
            block = blocks[kind_of(name, value)]
            left = 2 * value.numel()
            while left > 0:
                left -= file.write(block[:left] if left < len(block) else block)


def kind_of(name: str, value: Tensor) -> str:
    """What fills a tensor."""
    if value.dim() > 1:
        return "noise"
    return "one" if "norm" in name.lower() and name.endswith("weight") else "zero"


def write_words(folder: Path, extra: list[str], *, framed: bool = False) -> None:
    """A tokenizer that knows `w3` to `w31999`, and some special words behind them."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, 32000)}
    vocabulary |= {word: 32000 + place for place, word in enumerate(extra)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>", *extra])
    ends = ("<s> $A </s>", [("<s>", 1), ("</s>", 2)]) if framed else ("<s> $A", [("<s>", 1)])
    tokenizer.post_processor = processors.TemplateProcessing(single=ends[0], special_tokens=ends[1])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    named |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def write(family: str, folder: Path, layers: int = 32, vision_layers: int | None = None) -> int:
    """A whole folder; returns the bytes of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    made = config(family, layers, vision_layers)
    made.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"torch_dtype": "bfloat16"}, indent=2))
    if family == "video_llava":
        write_words(folder, ["<image>", "<video>", "<pad>"])
        watchword.VideoLlavaImageProcessor().save_pretrained(folder)
        watchword.VideoLlavaVideoProcessor().save_pretrained(folder)
    else:
        write_words(folder, ["<image>"])
        write_words(folder / "qformer_tokenizer", [], framed=True)
        size = {"height": 224, "width": 224}
        (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
        (folder / "processor_config.json").write_text('{"num_query_tokens": 32}')
    return write_weights(build.build(made), folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", choices=["video_llava", "instructblip"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32, help="of the text model")
    parser.add_argument("--vision-layers", type=int, help="of the towers")
    given = parser.parse_args()
    size = write(given.family, given.folder, given.layers, given.vision_layers)
    print(json.dumps({"folder": str(given.folder), "bytes": size, "gb": round(size / 1e9, 2)}))


if __name__ == "__main__":
    main()
