import numpy as np
import torch

from watchword.hf.language import IGNORED
from watchword.train import words
from watchword.train.blip_exam import examiner
from watchword.train.blip_student import BlipStudent, reader
from watchword.train.lessons import Look
from watchword.train.readings import ReadingLessons, asked_turns, read

LOOK = Look(frames=2)
IDS = LOOK.ids
VISUAL = 2 * 17
TALK = (("What moves?", "The red circle."), ("What colour is it?", "Red."))
ROWS = [[(("What happens?", "Nothing happens."),), TALK], [TALK[:1]]]


def test_a_question_scores_as_the_documented_forward_scores_it_with_the_row_s_instruction():
    student = BlipStudent(LOOK).eval()
    pixels = torch.randn(2, 2, 3, 56, 56)
    rows = read(ROWS, [1, 0], VISUAL, IDS)
    with torch.no_grad():
        hidden, _ = student.answers(rows, student.read(rows, student.features(pixels)[1]))
        packed = reader(student.model).logits(hidden)
        for row, told, clip in ((0, "What happens?", 1), (1, "What moves?", 0)):
            for number in range(1, int(rows.part[row].max()) + 1):
                here = rows.part[row] == number
                start = [*([IDS["<video>"]] * VISUAL), IDS["<s>"]]
                alone = student.model(
                    input_ids=torch.tensor([[*start, *rows.ids[row, here].tolist()]]),
                    pixel_values=pixels[clip][None],
                    qformer_input_ids=torch.tensor([[IDS["<s>"], *words.encode(told, IDS)]]),
                ).logits[0]
                assert torch.allclose(packed[row, here], alone[len(start) :], atol=1e-4)


def test_a_turn_stands_behind_what_was_said_and_its_answer_alone_is_learned():
    rows = read(ROWS, [0, 1], VISUAL, IDS)
    here = rows.part[0] == 2
    said = "dialog history: Question: What moves? Answer: The red circle. What colour is it? Red."
    assert rows.ids[0, here].tolist() == [*words.encode(said, IDS), IDS["</s>"]]
    kept = rows.labels[0, here]
    assert kept[kept != IGNORED].tolist() == [*words.encode("Red.", IDS), IDS["</s>"]]


def test_the_instruction_is_the_last_question_of_the_row_s_first():
    rows = read([[TALK]], [0], VISUAL, IDS)
    assert rows.told.tolist() == [[IDS["<s>"], *words.encode("What colour is it?", IDS)]]


def test_shorter_instructions_are_masked():
    rows = read(ROWS, [0, 1], VISUAL, IDS)
    assert rows.told_mask.sum(dim=1).tolist() == [4, 4]
    uneven = read([[(("Does it move left?", "No."),)], [TALK[:1]]], [0, 1], VISUAL, IDS)
    assert uneven.told_mask.sum(dim=1).tolist() == [6, 4]
    assert (uneven.told[1, 4:] == IDS["<pad>"]).all()


def test_a_conversation_is_asked_at_its_first_and_at_some_later_turns():
    rng = np.random.default_rng(0)
    talk = tuple((str(number), "") for number in range(5))
    turns = asked_turns(talk, rng)
    assert len(turns) == 3
    assert turns[0] == talk[:1]
    assert all(turn == talk[: len(turn)] and len(turn) > 1 for turn in turns[1:])


def test_each_clip_is_read_once():
    lessons = ReadingLessons(0, 0, clips=3, look=LOOK, asks=True, free=True)
    batch = lessons.batch(np.random.default_rng(0), False)
    assert batch.pack.clip.tolist() == [0, 1, 2]
    assert batch.pixels.shape[:2] == (3, 2)


def test_pictures_and_clips_are_learned_from():
    for picture in (True, False):
        torch.manual_seed(0)
        student = BlipStudent(LOOK)
        lessons = ReadingLessons(0, 0, clips=2, look=LOOK, asks=True, free=True)
        batch = lessons.batch(np.random.default_rng(0), picture)
        optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
        losses = []
        for _ in range(12):
            loss, report = student.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(report["picture_loss" if picture else "video_loss"])
        assert losses[-1] < 0.7 * losses[0]


def test_every_weight_learns_but_the_last_that_words_go_through():
    student = BlipStudent(LOOK)
    lessons = ReadingLessons(0, 0, clips=2, look=LOOK, asks=True)
    student.loss(lessons.batch(np.random.default_rng(0), False))[0].backward()
    idle = [name for name, weight in student.named_parameters() if weight.grad is None]
    # the words' last layer: only queries are read from it
    last = "model.qformer.encoder.layer.2."
    assert all(name.startswith((last + "intermediate.", last + "output.")) for name in idle)


def test_an_exam_asks_each_question_alone_and_tells_each_kind():
    torch.manual_seed(0)
    for picture in (True, False):
        found = examiner(LOOK, picture=picture, number=6)(BlipStudent(LOOK))
        assert "talk" in "".join(found)
        assert all(0 <= value <= 1 for value in found.values())
