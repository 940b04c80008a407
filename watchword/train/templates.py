"""Ways to ask for each task, so that a model learns the task and not one wording of it.

InstructBLIP was tuned on such wordings, a dozen for each of its tasks (Dai and others 2023, appendix C). The
tasks are the paper's; the words are our own.
"""

from collections.abc import Sequence

import numpy as np

TASKS: dict[str, tuple[str, ...]] = {
    "caption": (
        "Write a short caption for this {medium}.",
        "What does this {medium} show, in one sentence?",
        "Sum up this {medium} in a few words.",
        "Give this {medium} a caption.",
        "A one-line summary of the {medium}:",
        "Briefly, what can be seen here?",
    ),
    "describe": (
        "Describe this {medium} in detail.",
        "What can you see in this {medium}?",
        "Tell me all about this {medium}.",
        "Explain what is going on in the {medium}.",
        "Someone cannot see this {medium}. Describe it to them.",
        "Go through this {medium} and say what there is.",
    ),
    "question": (
        "{question}",
        "Look at the {medium} and answer: {question}",
        "Question: {question} Short answer:",
        "{question} Answer in a word or two.",
        "From what the {medium} shows, {question}",
        "About this {medium}: {question} Keep the answer short.",
    ),
    "choose": (
        "{question} Choose one of the options.",
        "Which option is right? {question}",
        "{question} Answer with one of the options and nothing else.",
        "Pick the right answer to this question about the {medium}: {question}",
    ),
    "ask": (
        "Ask a question about this {medium}.",
        "Think of something one could ask about the {medium}.",
        "Which question does this {medium} answer?",
        "Write a question that can be answered by looking at the {medium}.",
    ),
    "reason": (
        "{question} Give your reasons.",
        "Answer with what you know of the world: {question}",
        "{question} Think it through, then answer.",
        "Use the {medium} and your knowledge. {question}",
    ),
    "read": (
        "Read the text in the {medium}.",
        "Which words are written here?",
        "What does the writing in this {medium} say?",
        "Copy out the text that the {medium} shows.",
    ),
    "name": (
        "What is the main thing in this {medium}?",
        "Name what this {medium} shows.",
        "In a word or two, what is this?",
        "Put the {medium} into a category.",
    ),
    "act": (
        "What is being done in this {medium}?",
        "Name the action.",
        "Which activity does the {medium} show?",
        "What is happening here, in a word or two?",
    ),
}
"""Task → wordings. Those with `{question}` need one; the others ask by themselves."""


def wordings(task: str, question: str | None, kind: str) -> Sequence[str]:
    """All ways to ask; of a line that brings its own question those that hold it.

    A question of a task whose wordings have no place for it is asked as it is.
    """
    if question is not None and not any("{question}" in one for one in TASKS[task]):
        return (question,)
    return tuple(
        one.replace("{medium}", kind).replace("{question}", question or "")
        for one in TASKS[task]
        if question is not None or "{question}" not in one
    )


def asked(task: str | None, question: str | None, kind: str, draw: tuple[int, ...]) -> str:
    """The question as it is put this time; `draw` decides which wording, the same for the same numbers."""
    if task is None:
        return question or ""
    ways = wordings(task, question, kind)
    return ways[int(np.random.default_rng(draw).integers(len(ways)))]
