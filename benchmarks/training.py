"""Samples a second and peak memory of fine-tuning with LoRA, against transformers + PEFT + Trainer.

    python benchmarks/training.py [--shape tiny|middle] [--threads 2]

Same checkpoint, same encoded clips, each with one question and seen once, same batch, rank, targets and rate,
float32, one worker process that decodes ahead on both sides; each side in a process of its own. The first
steps are not counted. Prints a JSON line for each side, and one that compares them.
"""

import argparse
import csv
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = 3
"""Steps that are not counted."""
SHAPES = {
    "tiny": {"steps": 33, "batch": 8, "micro": 8},
    "middle": {"steps": 9, "batch": 2, "micro": 2},
}
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, RATE = 16, 2e-4
WORDS = 32000


def checkpoint(folder, shape):
    """The embedded model, or one of 60 M parameters, 32,000 words and 520 visual tokens a clip."""
    import torch

    from watchword.config import VideoLlavaConfig
    from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
    from watchword.pipeline.opening import EMBEDDED

    shutil.copytree(EMBEDDED, folder)
    if shape == "tiny":
        return
    raw = json.loads((folder / "config.json").read_text())
    raw["vision_config"] |= {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
                             "num_attention_heads": 8, "image_size": 112, "projection_dim": 256}  # fmt: skip
    raw["text_config"] |= {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
                           "num_attention_heads": 8, "num_key_value_heads": 8,
                           "vocab_size": WORDS}  # fmt: skip
    raw["text_config"].pop("head_dim", None)
    raw |= {"image_seq_length": 64, "video_seq_length": 520}
    torch.manual_seed(0)
    VideoLlavaForConditionalGeneration(VideoLlavaConfig(**raw)).save_pretrained(folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(": 56", ": 112"))


def material(folder, count):
    """Encoded clips of moving shapes, each with one question."""
    import numpy as np

    from watchword.media.write import write_clip
    from watchword.train import topics
    from watchword.train.world import clips

    random, lines = np.random.default_rng(0), []
    for number, (scene, frames) in enumerate(clips(1, count, 112)):
        write_clip(folder / f"{number}.mp4", frames)
        question, answer = topics.happens(scene.things(0), random)
        lines.append(json.dumps({"video": f"{number}.mp4", "question": question, "answer": answer}) + "\n")
    (folder / "data.jsonl").write_text("".join(lines))


def ours(folder, shape):
    from watchword import train

    settings = SHAPES[shape]
    train.run(
        folder / "data.jsonl", model=folder / "model", out=folder / "run", recipe="lora", rank=RANK,
        rate=RATE, hold_out=0, save=10_000, workers=1, check="quick", device="cpu", dtype="float32",
        **settings,
    )  # fmt: skip
    with (folder / "run" / "losses.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    seconds = float(lines[-1]["seconds"]) - float(lines[FIRST - 1]["seconds"])
    return seconds, [float(line["loss"]) for line in lines]


def theirs(folder, shape):
    sys.path.insert(0, str(ROOT))
    # torchvision beside a CPU build of torch; before all that imports it
    importlib.import_module("tests.parity.conftest")
    import av
    import numpy as np
    import peft
    import torch
    import transformers as ref

    settings = SHAPES[shape]
    processor = ref.VideoLlavaProcessor.from_pretrained(folder / "model")
    model = ref.VideoLlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32)
    names = rf".*language_model\..*\.({'|'.join(TARGETS)})"
    model = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=names, r=RANK, lora_alpha=2 * RANK, task_type=None)
    )
    lines = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]

    def frames(path):  # the documented loop: decode, keep eight
        with av.open(str(path)) as container:
            total = container.streams.video[0].frames
            wanted = set(np.arange(0, total, total / 8).astype(int).tolist())
            decoded = enumerate(container.decode(video=0))
            return np.stack([one.to_ndarray(format="rgb24") for index, one in decoded if index in wanted])

    def collate(some):
        prompts = [f"USER: <video>\n{one['question']} ASSISTANT:" for one in some]
        texts = [f"{prompt} {one['answer']}</s>" for prompt, one in zip(prompts, some)]
        clips = [frames(folder / one["video"]) for one in some]
        processor.tokenizer.padding_side = "right"
        inputs = processor(text=texts, videos=clips, padding=True, return_tensors="pt")
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        for row, prompt in enumerate(prompts):
            visual = 8 * ((model.config.vision_config.image_size // 14) ** 2 + 1)
            count = len(processor.tokenizer(prompt)["input_ids"]) - 1 + visual
            labels[row, :count] = -100
        return dict(inputs) | {"labels": labels}

    times, losses = [], []

    class Clock(ref.TrainerCallback):
        def on_step_end(self, *_, **__):
            times.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in (logs or {}):
                losses.append(logs["loss"])

    arguments = ref.TrainingArguments(
        output_dir=str(folder / "theirs"), max_steps=settings["steps"], learning_rate=RATE,
        per_device_train_batch_size=settings["batch"], lr_scheduler_type="cosine", warmup_ratio=0.03,
        max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, weight_decay=0.0,
        remove_unused_columns=False, dataloader_num_workers=1, dataloader_prefetch_factor=2,
        disable_tqdm=True, seed=0, group_by_length=False,
    )  # fmt: skip
    ref.Trainer(
        model=model, args=arguments, train_dataset=lines, data_collator=collate, callbacks=[Clock()]
    ).train()
    return times[-1] - times[FIRST - 1], losses


def side(name, folder, shape, threads):
    import torch

    torch.set_num_threads(threads)
    seconds, losses = {"ours": ours, "theirs": theirs}[name](folder, shape)
    samples = (SHAPES[shape]["steps"] - FIRST) * SHAPES[shape]["batch"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print("RESULT " + json.dumps({
        "side": name, "shape": shape, "threads": threads, "samples_per_second": round(samples / seconds, 2),
        "peak_mib": round(peak), "first_loss": round(losses[0], 3), "last_loss": round(losses[-1], 3),
        "torch": torch.__version__,
    }))  # fmt: skip


def child(arguments, threads):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, env=environment
    )
    found = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        sys.exit(done.stderr[-3000:])
    print(found[0], flush=True)
    return json.loads(found[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=("ours", "theirs"), help="for the processes that this one starts")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        side(options.side, options.folder, options.shape[0], options.threads)
        return
    for shape in options.shape or SHAPES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            checkpoint(folder / "model", shape)
            material(folder, SHAPES[shape]["steps"] * SHAPES[shape]["batch"])
            found = {"ours": [], "theirs": []}
            for _ in range(options.rounds):
                for name in found:
                    shutil.rmtree(folder / "run", ignore_errors=True)
                    arguments = [
                        "--side",
                        name,
                        "--folder",
                        place,
                        "--shape",
                        shape,
                        "--threads",
                        str(options.threads),
                    ]
                    found[name].append(child(arguments, options.threads))
            usual = {name: statistics.median(one["samples_per_second"] for one in runs)
                     for name, runs in found.items()}  # fmt: skip
            peak = {name: max(one["peak_mib"] for one in runs) for name, runs in found.items()}
            print(json.dumps({"shape": shape, "times_as_fast": round(usual["ours"] / usual["theirs"], 2),
                              "memory": round(peak["ours"] / peak["theirs"], 2)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
