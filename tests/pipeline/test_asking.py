import json
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from PIL import Image

import watchword
from tests.media.clips import decoded, write
from watchword import media
from watchword.errors import CapacityError, MediaError, RequestError, UnknownArgument
from watchword.pipeline import streaming
from watchword.pipeline.families import pixels_of

KINDS = ("llava", "blip", "blip-video", "blip-bare", "blip-opt", "blip-t5")
PICTURE = np.arange(36 * 48 * 3, dtype=np.uint8).reshape(36, 48, 3)
QUESTION = "What is happening in this video?"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("medium", ["picture", "video"])
def test_ask_answers_with_all_there_is_to_know(pipeline, clip, kind, medium):
    model = pipeline(kind)
    answer = model.ask(clip if medium == "video" else PICTURE, QUESTION, max_tokens=5)
    assert answer.medium == medium
    assert answer.model == model.name
    assert QUESTION not in answer.text
    assert 1 <= answer.tokens["answer"] <= 5
    assert answer.ended == (answer.tokens["answer"] < 5) or answer.ended
    assert set(answer.seconds) == {"decode", "vision", "prompt", "first_token", "generation", "total"}
    assert answer.seconds["prompt"] <= answer.seconds["first_token"] <= answer.seconds["total"]
    assert answer.options["max_new_tokens"] == 5
    assert json.loads(json.dumps(answer.to_dict()))["text"] == answer.text == str(answer)
    with pytest.raises(FrozenInstanceError):
        answer.text = "other"


@pytest.mark.parametrize("kind", ["llava", "blip", "blip-video"])
@pytest.mark.parametrize("height", [1, 2, 3, 4])
def test_pictures_a_few_rows_high_are_pictures(pipeline, kind, height, tmp_path):
    model = pipeline(kind)
    red = Image.new("RGB", (60, height), "red")
    red.save(tmp_path / "a.png")
    wanted = pixels_of(media.read_media(Image.new("RGB", (60, 60), "red")), model.specs)
    for source in (red, tmp_path / "a.png"):
        clip = media.read_media(source)
        assert clip.frames.shape == (1, height, 60, 3)
        assert torch.allclose(pixels_of(clip, model.specs), wanted)
    assert (
        model.ask(red, QUESTION, max_tokens=2).text
        == model.ask(tmp_path / "a.png", QUESTION, max_tokens=2).text
    )


def test_words_that_are_no_text_are_refused(pipeline):
    model, bad = pipeline("llava"), "bl\udcffue"
    for ask in (
        lambda: model.ask(PICTURE, bad),
        lambda: model.ask(PICTURE, QUESTION, stop=bad),
        lambda: model.ask(PICTURE, QUESTION, choices=["red", bad]),
        lambda: model.rank(PICTURE, QUESTION, ["red", bad]),
        lambda: model.chat(PICTURE).ask(bad),
    ):
        with pytest.raises(RequestError, match=r"'.*bl\\udcffue.*' is not UTF-8 text"):
            ask()


def test_too_many_answers_are_refused_before_anything_is_made_for_them(pipeline, monkeypatch):
    monkeypatch.setattr(streaming, "Line", lambda *given: pytest.fail("made"))
    with pytest.raises(CapacityError, match="1000000 beams or samples"):
        pipeline("llava").ask(PICTURE, QUESTION, n=1_000_000, temperature=1.0)


def test_ask_looks_at_frames_spread_evenly(pipeline, clip):
    llava, blip = pipeline("llava").ask(clip, QUESTION), pipeline("blip").ask(clip, QUESTION)
    assert llava.frames == (0, 2, 5, 7, 10, 12, 15, 17)
    assert llava.times == pytest.approx([i / 24 for i in llava.frames])
    assert blip.frames == (0, 5, 10, 15)
    assert llava.total_frames == 20
    assert (llava.tokens["visual"], blip.tokens["visual"]) == (8 * 5, 4 * 3)


def test_ask_takes_another_number_or_choice_of_frames(pipeline, clip):
    model = pipeline("llava")
    assert model.ask(clip, QUESTION, frames=2, max_tokens=1).frames == (0, 10)
    assert model.ask(clip, QUESTION, frames=media.at_indices([3, 19]), max_tokens=1).frames == (3, 19)


def test_ask_says_when_a_clip_is_shorter_than_the_frames_asked_for(pipeline, tmp_path):
    short = write(tmp_path / "short.mp4", frames=5)
    answer = pipeline("llava").ask(short, QUESTION, max_tokens=1)
    assert answer.frames == (0, 1, 2, 3, 4)
    assert answer.notes == ("the clip has 5 frames, 8 were asked for; all are used",)


def test_ask_says_that_a_picture_has_one_frame(pipeline):
    answer = pipeline("blip").ask(PICTURE, QUESTION, frames=4, max_tokens=1)
    assert answer.notes == ("a picture has one frame; the choice of frames has no effect",)


@pytest.mark.parametrize("kind", ["llava", "blip"])
def test_ask_takes_pictures_and_clips_in_every_form(pipeline, clip, tmp_path, kind):
    model = pipeline(kind)
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    pictures = (PICTURE, Image.fromarray(PICTURE), tmp_path / "p.png", (tmp_path / "p.png").read_bytes())
    assert len({model.ask(one, QUESTION, max_tokens=5).text for one in pictures}) == 1
    frames = np.stack(decoded(clip))
    clips = (clip, str(clip), clip.read_bytes(), frames, list(frames), torch.from_numpy(frames))
    with clip.open("rb") as file:
        assert len({model.ask(one, QUESTION, max_tokens=5).text for one in (*clips, file)}) == 1


def documented(kind, checkpoint, pixels_from, text, **settings):
    """The ids of the answer by the documented classes."""
    name = {"llava": "VideoLlava", "blip": "InstructBlip", "blip-video": "InstructBlipVideo"}[kind]
    model = getattr(watchword, f"{name}ForConditionalGeneration").from_pretrained(checkpoint)
    processor = getattr(watchword, f"{name}Processor").from_pretrained(checkpoint)
    inputs = processor(text=text, **pixels_from, return_tensors="pt")
    ids = model.generate(**inputs, **settings)
    new = ids[:, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("settings", [{}, {"beams": 3, "repetition_penalty": 1.5}])
@pytest.mark.parametrize("medium", ["picture", "video"])
def test_ask_equals_the_documented_classes_for_video_llava(pipeline, checkpoint, clip, settings, medium):
    answer = pipeline("llava").ask(
        PICTURE if medium == "picture" else clip, QUESTION, max_tokens=8, **settings
    )
    frames = np.stack(decoded(clip))[list(answer.frames)]
    given = {"images": PICTURE} if medium == "picture" else {"videos": frames}
    token = "<image>" if medium == "picture" else "<video>"
    text = f"USER: {token}\n{QUESTION} ASSISTANT:"
    theirs = {
        "num_beams": settings.get("beams", 1),
        "repetition_penalty": settings.get("repetition_penalty", 1.0),
    }
    assert answer.text == documented("llava", checkpoint("llava"), given, text, max_new_tokens=8, **theirs)


@pytest.mark.parametrize("kind", ["blip", "blip-video"])
def test_ask_equals_the_documented_classes_for_instructblip(pipeline, checkpoint, clip, kind):
    answer = pipeline(kind).ask(PICTURE if kind == "blip" else clip, QUESTION, max_tokens=8, beams=3)
    given = (
        {"images": PICTURE} if kind == "blip" else {"images": np.stack(decoded(clip))[list(answer.frames)]}
    )
    text = documented(kind, checkpoint(kind), given, QUESTION, max_new_tokens=8, num_beams=3)
    assert answer.text == text


@pytest.mark.parametrize("kind", KINDS)
def test_ask_reads_control_tokens_and_unknown_letters_in_a_question_as_words(pipeline, kind):
    plain = pipeline(kind).ask(PICTURE, "What?", max_tokens=1)
    odd = pipeline(kind).ask(PICTURE, "What? </s><video><image> {ß}", max_tokens=1)
    assert odd.tokens["prompt"] > plain.tokens["prompt"]
    assert odd.tokens["visual"] == plain.tokens["visual"]


def test_ask_samples_only_when_asked_and_repeatably_with_a_seed(pipeline, clip):
    model = pipeline("llava")
    greedy = model.ask(clip, QUESTION, max_tokens=12)
    assert model.ask(clip, QUESTION, max_tokens=12, temperature=0).text == greedy.text
    state = torch.random.get_rng_state()
    drawn = [model.ask(clip, QUESTION, max_tokens=12, temperature=5.0, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert drawn[0].text == drawn[1].text != drawn[2].text
    assert drawn[0].options["seed"] == 1
    assert drawn[0].options["temperature"] == 5.0
    assert drawn[0].options["do_sample"] is True
    assert "do_sample" not in greedy.options


def test_ask_says_when_a_seed_has_no_effect(pipeline):
    answer = pipeline("llava").ask(PICTURE, QUESTION, max_tokens=1, seed=1)
    assert answer.notes == (
        "nothing is drawn at random without temperature or top_p; the seed has no effect",
    )


def test_ask_tells_the_time_of_the_first_settled_token_of_beams(pipeline):
    seconds = pipeline("llava").ask(PICTURE, QUESTION, max_tokens=2, beams=2).seconds
    assert 0 < seconds["first_token"] <= seconds["total"]


def test_ask_ends_at_the_end_token(pipeline):
    model = pipeline("llava")
    ids = model.ask(PICTURE, QUESTION, max_tokens=4, min_new_tokens=4)
    everything = tuple(range(model.model.config.text_config.vocab_size))
    answer = model.ask(PICTURE, QUESTION, max_tokens=4, eos_token_id=list(everything))
    assert (answer.ended, answer.tokens["answer"]) == (True, 1)
    assert ids.tokens["answer"] == 4


def test_ask_cuts_the_answer_to_the_positions_there_are_and_says_so(pipeline):
    answer = pipeline("llava").ask(PICTURE, QUESTION, max_tokens=100_000)
    room = 300 - answer.tokens["prompt"]
    assert answer.options["max_new_tokens"] == room
    assert answer.notes[0].endswith(f"has 300 positions: room for {room} new tokens, not 100000")


def test_ask_refuses_more_frames_than_there_are_positions(pipeline, tmp_path):
    clip = write(tmp_path / "long.mp4", frames=70)
    with pytest.raises(
        CapacityError, match=r"the prompt has \d+ tokens, 350 of them for 70 frames; .* has 300 pos"
    ):
        pipeline("llava").ask(clip, QUESTION, frames=70)


def test_ask_says_when_memory_is_short(pipeline, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = pipeline("llava")
    for part, verb in ((model.model, "image_tokens"), (model.model.language_model, "prefill")):
        model.cache.clear()
        with monkeypatch.context() as patch:
            patch.setattr(part, verb, full)
            with pytest.raises(CapacityError, match=r"out of memory on cpu at \d+ prompt tokens and 2 beams"):
                model.ask(PICTURE, QUESTION, beams=2)
    assert model.ask(PICTURE, QUESTION, beams=2, max_tokens=1).tokens["answer"] == 1


def test_ask_refuses_a_question_without_a_medium(pipeline):
    with pytest.raises(
        RequestError, match=r"ask: no picture or clip, and .* answers about what it sees; give a path"
    ):
        pipeline("llava").ask(None, QUESTION)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_ask_refuses_a_question_without_words(pipeline, question):
    with pytest.raises(RequestError, match=re.escape(f"the question is {question!r}, expected")):
        pipeline("llava").ask(PICTURE, question)


def test_ask_refuses_no_such_file_and_no_medium(pipeline, tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4: no such file"):
        pipeline("llava").ask(tmp_path / "gone.mp4", QUESTION)
    (tmp_path / "text.mp4").write_text("words, words, words")
    with pytest.raises(MediaError, match=r"text\.mp4: neither a picture"):
        pipeline("llava").ask(tmp_path / "text.mp4", QUESTION)


def test_ask_refuses_a_truncated_clip(pipeline, clip, tmp_path):
    path = tmp_path / "cut.mp4"
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut\.mp4: the data ends early"):
        pipeline("llava").ask(path, QUESTION)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("do_sample", "set temperature"), ("max_length", "use max_new_tokens"), ("stop_strings", "use stop"),
        ("repetition_penalti", "did you mean 'repetition_penalty'"), ("xyzzy", "known are "),
        ("num_return_sequences", "use n"),
    ],
)  # fmt: skip
def test_ask_refuses_unknown_arguments_with_a_hint(pipeline, name, hint):
    with pytest.raises(UnknownArgument, match=f"ask: unknown argument {name!r}; {hint}"):
        pipeline("llava").ask(PICTURE, QUESTION, **{name: 1})


def test_ask_refuses_what_has_no_effect_or_is_not_implemented(pipeline):
    model = pipeline("llava")
    with pytest.raises(RequestError, match=r"top_p=0\.5 has no effect at temperature=0"):
        model.ask(PICTURE, QUESTION, temperature=0, top_p=0.5)
    with pytest.raises(RequestError, match=r"temperature=-1"):
        model.ask(PICTURE, QUESTION, temperature=-1)
    with pytest.raises(RequestError, match=r"penalty_alpha=0\.6 is not implemented"):
        model.ask(PICTURE, QUESTION, penalty_alpha=0.6)


def test_ask_of_t5_needs_a_token_to_begin_with(pipeline):
    model = pipeline("blip-t5")
    settings = {
        k: v for k, v in model.settings.items() if k not in ("decoder_start_token_id", "bos_token_id")
    }
    bare = type(model)(**{**model.__dict__, "settings": settings})
    with pytest.raises(RequestError, match="names neither decoder_start_token_id nor bos_token_id"):
        bare.ask(PICTURE, QUESTION)
