import numpy as np
import pytest
import torch
from PIL import Image

import watchword
from watchword import pipeline
from watchword.media.pixels import to_pixels
from watchword.media.write import write_clip
from watchword.train import topics, world
from watchword.train.blip_folder import write_folder
from watchword.train.blip_student import BlipStudent, reader
from watchword.train.lessons import Look
from watchword.train.packing import answered
from watchword.train.readings import read

DEMO = pipeline.EMBEDDED.parent
LOOK = Look(frames=4)
QUESTIONS = ("What happens?", "what colour is the circle", "Is there a blue square here?")


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return BlipStudent(LOOK).eval()


@pytest.mark.parametrize("picture", [True, False], ids=["instructblip", "instructblip-video"])
def test_written_folder_answers_as_the_student_does(student, picture, tmp_path):
    write_folder(student.model, tmp_path, LOOK, picture=picture)
    model = watchword.load(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)
    Image.fromarray(noise[0]).save(tmp_path / "picture.png")
    medium = tmp_path / "picture.png" if picture else list(noise)
    frames = noise[:1] if picture else noise
    spec = model.specs["picture" if picture else "video"]

    pixels = to_pixels(torch.from_numpy(frames), spec)[None]
    for question in QUESTIONS:
        text = model.ask(medium, question, max_new_tokens=6).text
        rows = read([[((question, text),)]], [0], 17 * len(frames), LOOK.ids)
        hidden, _ = student.answers(rows, student.read(rows, student.features(pixels)[1]))
        rows.labels[rows.labels == LOOK.ids["</s>"]] = -100  # an untrained answer is cut off, not ended
        assert answered(reader(student.model).logits(hidden).argmax(-1), rows) == [[True]], text


@pytest.mark.parametrize("name", ["instructblip", "instructblip-video"])
def test_embedded_folder_is_small(name):
    files = [path for path in (DEMO / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_embedded_model_is_right_about_pictures(tmp_path):
    right = []
    model = watchword.load(DEMO / "instructblip")
    rng = np.random.default_rng(8)
    for scene, frames in world.clips(8, 6, 320, still=True):
        Image.fromarray(frames[0].numpy()).save(tmp_path / "picture.png")
        for kind in ("count", "colour", "listing", "exists"):
            asked = topics.PICTURES[kind](scene.things(0), rng)
            if asked:
                right.append(model.ask(tmp_path / "picture.png", asked[0]).text == asked[1])
    assert np.mean(right) >= 0.9


def test_embedded_model_is_right_about_clips(tmp_path):
    right = []
    model = watchword.load(DEMO / "instructblip-video")
    rng = np.random.default_rng(8)
    for scene, frames in world.clips(9, 6, 320):
        write_clip(tmp_path / "clip.mp4", frames)
        for kind in ("count", "happens", "does", "who", "first"):
            asked = topics.CLIPS[kind](scene.things(0), rng)
            if asked:
                right.append(model.ask(tmp_path / "clip.mp4", asked[0]).text == asked[1])
    assert len(right) > 20
    assert np.mean(right) >= 0.9


def test_embedded_model_knows_in_a_conversation_what_it_is(tmp_path):
    """A red circle and a blue square: what `it` is only stands in the turn before."""
    model = watchword.load(DEMO / "instructblip")
    Image.fromarray(pair()).save(tmp_path / "picture.png")
    for shape, colour, other in (("circle", "Red.", "Blue."), ("square", "Blue.", "Red.")):
        chat = model.chat()
        chat.show(tmp_path / "picture.png")
        name = {"circle": "red circle", "square": "blue square"}[shape]
        second = {"circle": "square", "square": "circle"}[shape]
        assert chat.ask(f"Is there a {name}?").text == "Yes."
        assert chat.ask("What colour is it?").text == colour
        assert chat.ask(f"And the {second}?").text == other


def pair():
    """A red circle on the left and a blue square on the right."""
    y, x = np.mgrid[:320, :320]
    picture = np.full((320, 320, 3), 215, np.uint8)
    picture[np.hypot(x - 90, y - 160) < 50] = (210, 45, 45)
    picture[(abs(x - 230) < 45) & (abs(y - 160) < 45)] = (45, 80, 205)
    return picture
