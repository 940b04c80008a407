import torch

from watchword.hf.language import IGNORED, causal_loss
from watchword.train import words
from watchword.train.lessons import Look
from watchword.train.packing import answered, opening, pack
from watchword.train.student import Student

IDS = words.vocabulary()
LOOK = Look()
ROWS = [
    [("What happens?", "Nothing happens."), ("What colour is the circle?", "Red.")],
    [("How many objects are there?", "Two.")],
]


def test_a_packed_question_scores_as_the_documented_forward_scores_it_alone():
    student = Student(LOOK).eval()
    pixels = torch.randn(2, 8, 3, 56, 56)
    with torch.no_grad():
        rows = pack(ROWS, opening(IDS, "<video>", 8 * 17), IDS)
        hidden, _ = student.read(rows, student.features(pixels)[1])
        packed = student.model.language_model.logits(hidden)
        for row, asked in enumerate(ROWS):
            for number, (question, answer) in enumerate(asked, start=1):
                prompt = opening(IDS, "<video>", 8 * 17)
                text = words.encode(f"{question} ASSISTANT: {answer}", IDS)
                ids = torch.tensor([[*prompt, *text, IDS["</s>"]]])
                alone = student.model(input_ids=ids, pixel_values_videos=pixels[row : row + 1]).logits[0]
                here = rows.part[row] == number
                assert torch.allclose(packed[row, here], alone[len(prompt) :], atol=1e-4)


def test_labels_hold_the_answers_and_their_end_only():
    labels = pack(ROWS, opening(IDS, "<video>", 4), IDS).labels
    kept = labels[0][labels[0] != IGNORED].tolist()
    end = IDS["</s>"]
    # the longer question stands first
    assert kept == [*words.encode("Red.", IDS), end, *words.encode("Nothing happens.", IDS), end]


def test_answered_is_true_only_where_every_token_is_right():
    rows = pack(ROWS, opening(IDS, "<video>", 4), IDS)
    likely = rows.labels.roll(-1, dims=1)
    assert answered(likely, rows) == [[True, True], [True]]
    last = ((rows.labels[0] == IDS["</s>"]) & (rows.part[0] == 1)).nonzero()[0, 0]
    likely[0, last - 1] = 0  # the end of the first answer is no longer predicted
    assert answered(likely, rows) == [[False, True], [True]]


def test_loss_of_a_pack_is_the_mean_over_the_answers_tokens():
    rows = pack(ROWS, opening(IDS, "<video>", 4), IDS)
    loss = causal_loss(torch.zeros(*rows.ids.shape, len(IDS)), rows.labels)
    assert torch.isclose(loss, torch.log(torch.tensor(float(len(IDS)))))
