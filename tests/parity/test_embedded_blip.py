"""Embedded models of InstructBLIP: the reference reads their folders and gives the same ids and answers."""

import numpy as np
import pytest
import torch
from transformers import (
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipVideoForConditionalGeneration,
    InstructBlipVideoProcessor,
)

from watchword import pipeline
from watchword.hf.processing_instructblip import InstructBlipProcessor as OurProcessor
from watchword.hf.processing_instructblip import InstructBlipVideoProcessor as OurVideoProcessor
from watchword.media import read_frames, uniform
from watchword.media.write import write_clip
from watchword.pipeline.families import Exchange, dialogue
from watchword.train import talks, topics, world

DEMO = pipeline.EMBEDDED.parent
PARTS = {
    "instructblip": (InstructBlipProcessor, OurProcessor, InstructBlipForConditionalGeneration),
    "instructblip-video": (
        InstructBlipVideoProcessor,
        OurVideoProcessor,
        InstructBlipVideoForConditionalGeneration,
    ),
}
ASKED = {
    "instructblip": ("count", "listing", "beside", "colour", "number"),
    "instructblip-video": ("happens", "does", "first", "moment"),
}


@pytest.fixture(scope="module", params=PARTS)
def both(request):
    theirs, ours, model = PARTS[request.param]
    folder = DEMO / request.param
    return (
        request.param,
        theirs.from_pretrained(folder),
        ours.from_pretrained(folder),
        model.from_pretrained(folder).eval(),
    )


def media(name, number, tmp_path):
    """Worlds, each with a file that shows it and what the reference gets of it."""
    still = name == "instructblip"
    for at, (scene, frames) in enumerate(world.clips(5, number, 320, still=still)):
        if still:
            from PIL import Image

            path = tmp_path / f"{at}.png"
            Image.fromarray(frames[0].numpy()).save(path)
            yield scene.things(0), path, Image.open(path)
        else:
            path = tmp_path / f"{at}.mp4"
            write_clip(path, frames)
            yield scene.things(0), path, np.asarray(read_frames(path, uniform(4)).frames)


def answer(processor, model, seen, text):
    inputs = processor(images=seen, text=text, return_tensors="pt")
    with torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
    return processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]


def test_both_processors_give_the_same_inputs(both, tmp_path):
    name, theirs, ours, _ = both
    for _, _, seen in media(name, 2, tmp_path):
        for text in ("What happens first?", "is the red circle left of a Blue SQUARE, or an elephant"):
            wanted, given = (each(images=seen, text=text, return_tensors="pt") for each in (theirs, ours))
            assert set(wanted) == set(given)
            assert all(torch.equal(wanted[key], given[key]) for key in wanted)


def test_the_reference_gives_the_same_answers(both, tmp_path):
    name, processor, _, model = both
    ours, rng = pipeline.load(DEMO / name), np.random.default_rng(2)
    for things, path, seen in media(name, 5, tmp_path):
        for kind in ASKED[name]:
            if asked := topics.CLIPS[kind](things, rng):
                assert ours.ask(path, asked[0]).text == answer(processor, model, seen, asked[0])


def test_the_reference_gives_the_same_answers_in_a_conversation(both, tmp_path):
    name, processor, _, model = both
    ours, rng = pipeline.load(DEMO / name), np.random.default_rng(3)
    kinds = topics.PICTURES if name == "instructblip" else topics.CLIPS
    for things, path, seen in media(name, 3, tmp_path):
        chat = ours.chat()
        chat.show(path)
        said = []
        for question, _ in talks.talk(things, rng, turns=3, kinds=kinds):
            said.append(Exchange(question))
            inputs = processor(images=seen, text=dialogue(said), return_tensors="pt")
            inputs |= {
                f"qformer_{key}": value
                for key, value in processor.qformer_tokenizer(question, return_tensors="pt").items()
                if key in ("input_ids", "attention_mask")
            }
            with torch.no_grad():
                ids = model.generate(**inputs, max_new_tokens=32, do_sample=False)
            prompt = inputs["input_ids"].shape[1]
            wanted = processor.batch_decode(ids[:, prompt:], skip_special_tokens=True)[0]
            assert chat.ask(question).text == wanted
            said[-1] = Exchange(question, answer=wanted)
