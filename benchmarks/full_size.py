"""A Video-LLaVA of the real size with random weights: written by shards, loaded, asked; peak memory measured.

python benchmarks/full_size.py write FOLDER          # 15 GB of disk, 16 GB of memory
python benchmarks/full_size.py ask FOLDER clip.mp4   # prints one JSON line
"""

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

import watchword

SHARD = "2GB"


def config() -> watchword.VideoLlavaConfig:
    """The published shapes of Video-LLaVA-7B."""
    return watchword.VideoLlavaConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": 32064,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "pad_token_id": 32002,
        }
    )


def write(folder: Path) -> None:
    """Random weights straight into bfloat16, and a word-level tokenizer with the published special ids."""
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("meta"):
        model = watchword.VideoLlavaForConditionalGeneration(config())
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(2**22, generator=generator).mul_(
        0.02
    )  # repeated: drawing 7 billion numbers takes minutes
    for name, p in model.named_parameters():
        flat = p.data.view(-1)
        if name.endswith("norm.weight") or "layernorm.weight" in name or "layrnorm.weight" in name:
            flat.fill_(1)
            continue
        for start in range(0, len(flat), len(block)):
            part = flat[start : start + len(block)]
            part.copy_(block[: len(part)])
    model.save_pretrained(folder, max_shard_size=SHARD)
    vocabulary = {f"w{i}": i for i in range(32000)} | {"<image>": 32000, "<video>": 32001, "<pad>": 32002}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {k: v for k, v in vocabulary.items() if v > 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<s>", "</s>", "<image>", "<video>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    watchword.VideoLlavaImageProcessor().save_pretrained(folder)
    watchword.VideoLlavaVideoProcessor().save_pretrained(folder)


def ask(folder: Path, clip: Path, tokens: int) -> None:
    """One question, in a process that did nothing else before."""
    start = time.perf_counter()
    model = watchword.load(folder)
    loaded = time.perf_counter() - start
    answer = model.ask(clip, "w7 w8 w9 w10", max_tokens=tokens)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({
        "torch": torch.__version__, "threads": torch.get_num_threads(), "dtype": str(model.dtype),
        "load_seconds": round(loaded, 1), "peak_gib": round(peak, 2), "frames": list(answer.frames),
        "tokens": dict(answer.tokens), "seconds": {k: round(v, 2) for k, v in answer.seconds.items()},
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("write", "ask"):
        one = commands.add_parser(name)
        one.add_argument("folder", type=Path)
        if name == "ask":
            one.add_argument("clip", type=Path)
            one.add_argument("--tokens", type=int, default=4)
    options = parser.parse_args()
    if options.command == "write":
        write(options.folder)
    else:
        ask(options.folder, options.clip, options.tokens)


if __name__ == "__main__":
    main()
