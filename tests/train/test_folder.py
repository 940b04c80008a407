import json
from pathlib import Path

import pytest
import torch

from watchword import pipeline
from watchword.hf.processing import VideoLlavaProcessor
from watchword.hf.video_llava import VideoLlavaForConditionalGeneration
from watchword.train.folder import write_folder
from watchword.train.lessons import Look
from watchword.train.student import Student

CLIPS = Path(pipeline.__file__).parents[1] / "demo" / "clips"
ASKED = json.loads((CLIPS / "clips.json").read_text(encoding="utf-8"))
TALKS = json.loads((CLIPS / "talks.json").read_text(encoding="utf-8"))
LOOK = Look()


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return Student(LOOK).eval()


def test_written_folder_answers_as_the_student_does(student, tmp_path):
    write_folder(student.model, tmp_path, LOOK)
    read = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path)
    processor = VideoLlavaProcessor.from_pretrained(tmp_path)
    clip = torch.randint(0, 256, (8, 3, 80, 90), dtype=torch.uint8)
    inputs = processor(text="USER: <video>\nWhat happens? ASSISTANT:", videos=[clip], return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 8, 3, 56, 56)
    with torch.no_grad():
        assert torch.equal(read(**inputs).logits, student.model(**inputs).logits)


def test_written_folder_has_two_equal_towers(student, tmp_path):
    write_folder(student.model, tmp_path, LOOK)
    read = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path)
    image, video = read.image_tower.state_dict(), read.video_tower.state_dict()
    assert all(torch.equal(image[name], video[name]) for name in video)


def test_chat_template_of_the_written_folder_makes_the_documented_prompt(student, tmp_path):
    write_folder(student.model, tmp_path, LOOK)
    processor = VideoLlavaProcessor.from_pretrained(tmp_path)
    turns = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It grows."}]},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert text == "USER: <video>\nWhat happens? ASSISTANT: It grows. USER: Why? ASSISTANT:"


def test_embedded_model_is_small():
    assert (pipeline.EMBEDDED / "model.safetensors").stat().st_size < 8_000_000


def test_embedded_model_is_right_about_its_clips():
    """All but one, of which it leaves out half."""
    model = pipeline.load()
    pairs = [(name, *pair) for name, asked in ASKED.items() for pair in asked.items()]
    wrong = [(name, q) for name, q, right in pairs if model.ask(CLIPS / name, q).text != right]
    assert len(pairs) == 18
    assert set(wrong) <= {("shapes_2.mp4", "What happens in the video?")}


def test_embedded_model_keeps_up_a_conversation():
    model = pipeline.load()
    for name, turns in TALKS.items():
        chat = model.chat(CLIPS / name)
        assert [[question, chat.ask(question).text] for question, _ in turns] == turns


@pytest.mark.parametrize("question", ["what happens", "WHAT happens?!", "Please tell me what happens."])
def test_embedded_model_answers_freely_worded_questions_with_words(question):
    assert pipeline.load().ask(CLIPS / "shapes_2.mp4", question).text.strip()
