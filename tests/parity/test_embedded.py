"""The reference reads the embedded model's folder and gives the same answers about the same clips."""

import json

import numpy as np
import torch
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from watchword import pipeline
from watchword.media import read_frames
from watchword.train import topics, world

CLIPS = pipeline.EMBEDDED.parent / "clips"


def ask_reference(processor, model, question, *, frames=None, picture=None):
    kind = "image" if frames is None else "video"
    media = {"images": picture} if frames is None else {"videos": [frames]}
    inputs = processor(text=f"USER: <{kind}>\n{question} ASSISTANT:", return_tensors="pt", **media)
    with torch.no_grad():
        ids = model.generate(**inputs)
    return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]


def test_reference_gives_the_same_answers_about_clips():
    processor = VideoLlavaProcessor.from_pretrained(pipeline.EMBEDDED)
    model = VideoLlavaForConditionalGeneration.from_pretrained(pipeline.EMBEDDED).eval()
    ours = pipeline.load()
    for name, asked in json.loads((CLIPS / "clips.json").read_text(encoding="utf-8")).items():
        if not name.endswith(".mp4"):
            continue
        frames = np.asarray(read_frames(CLIPS / name).frames)
        for question in asked:
            theirs = ask_reference(processor, model, question, frames=frames)
            assert ours.ask(CLIPS / name, question).text == theirs, (name, question)


def test_reference_goes_on_with_a_conversation_as_we_do():
    processor = VideoLlavaProcessor.from_pretrained(pipeline.EMBEDDED)
    model = VideoLlavaForConditionalGeneration.from_pretrained(pipeline.EMBEDDED).eval()
    ours = pipeline.load()
    for name, turns in json.loads((CLIPS / "talks.json").read_text(encoding="utf-8")).items():
        kind, media = ("video", "videos") if name.endswith(".mp4") else ("image", "images")
        frames = np.asarray(read_frames(CLIPS / name).frames)
        chat, said = ours.chat(CLIPS / name), f"USER: <{kind}>\n"
        for question, _ in turns:
            said += f"{question} ASSISTANT:"
            inputs = processor(
                text=said, return_tensors="pt", **{media: [frames] if kind == "video" else frames[0]}
            )
            with torch.no_grad():
                ids = model.generate(**inputs)
            answer = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[
                0
            ]
            assert chat.ask(question).text == answer, (name, question)
            said += f" {answer} USER: "


def test_reference_gives_the_same_answers_about_pictures(tmp_path):
    from PIL import Image

    processor = VideoLlavaProcessor.from_pretrained(pipeline.EMBEDDED)
    model = VideoLlavaForConditionalGeneration.from_pretrained(pipeline.EMBEDDED).eval()
    ours, rng = pipeline.load(), np.random.default_rng(2)
    for _ in range(4):
        scene = world.sample(rng, 1, still=True)
        pixels = world.render(scene, np.zeros((1, 1)), 320)[0][0, 0].permute(1, 2, 0)
        picture = Image.fromarray(pixels.round().byte().numpy())
        picture.save(tmp_path / "picture.png")
        for kind in ("count", "listing"):
            question, _ = topics.PICTURES[kind](scene.things(0), rng)
            theirs = ask_reference(processor, model, question, picture=picture)
            assert ours.ask(tmp_path / "picture.png", question).text == theirs
