"""
What a reader is told if an answer of the model was lost, or is not there yet.

A question is in the record before its answer arrives. So a question that was withheld, cut off or
asked again stays visible. An answer is lost if its question was closed without an answer.
"""

from collections.abc import Sequence

from msgspec import Struct

from app.domain.text import join_words

_TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times", 6: "six times"}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


class Question(Struct, frozen=True):
    """
    A question to the model.

    `accepted` is None while the question is open. `has_answer` is whether an answer arrived.
    """

    attempt: int
    accepted: bool | None
    has_answer: bool

    @property
    def is_lost(self) -> bool:
        """Return whether the question was closed without an answer."""
        return self.accepted is False and not self.has_answer


def question_sentences(questions: Sequence[Question]) -> list[str]:
    """
    Return sentences about the questions of one Monday whose answers are missing.

    The first sentence is about lost answers after which the model was asked again. It says how
    often the model was asked. Then there is one sentence for each question that is still open.
    """
    sentences = []
    lost = [number for number, one in enumerate(questions[:-1], 1) if one.is_lost]
    if lost:
        count = len(questions)
        times = _TIMES.get(count, f"{count} times")
        sentences.append(f"The model was asked {times}; {_lost_answers(lost)} lost.")
    for number, one in enumerate(questions, 1):
        if one.accepted is not None:
            continue
        if number == len(questions):
            sentences.append(f"Question {one.attempt} is still open: no answer has arrived yet.")
        else:
            sentences.append(
                f"Question {one.attempt} is still open, although the model was asked again."
            )
    return sentences


def _lost_answers(lost: Sequence[int]) -> str:
    """Return a phrase such as "the first and the second answer were", for these answers."""
    names = join_words([f"the {_ordinal(number)}" for number in lost])
    verb = "was" if len(lost) == 1 else "were"
    return f"{names} answer {verb}"


def _ordinal(number: int) -> str:
    if number <= len(_ORDINALS):
        return _ORDINALS[number - 1]
    return f"{number}th"
