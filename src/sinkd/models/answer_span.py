"""Where an answer lies among the tokens of a prompt that a server echoes."""

from collections.abc import Sequence

from sinkd.errors import SinkdError


def answer_span(tokens: Sequence[str], answer: str, rest: str) -> slice:
    """Find an answer's tokens in those of an echoed prompt.

    They are found by their spelling, since servers count offsets differently: some count a first token that is not
    shown, some leave out the last. A token that spells the end of the prompt and the beginning of the answer belongs
    to the answer.

    Args:
        tokens: The tokens of prompt, answer, and at most one that the server wrote.
        answer: The answer, which does not end with a space.
        rest: The text of that token, which may be empty.

    Raises:
        SinkdError: if the tokens do not spell the answer.
    """
    end, joined = len(tokens), letters("".join(tokens))
    spelled, wanted, more = "", letters(answer), letters(rest)
    if not joined.endswith(wanted) or (more and joined.endswith(wanted + more)) or not letters(tokens[-1]):
        end -= 1
    for start in range(end - 1, -1, -1):
        spelled = tokens[start] + spelled
        if letters(spelled).endswith(wanted):
            break
    else:
        raise SinkdError(f"the server's tokens do not spell the answer {answer!r}")
    if answer[0].isspace() and letters(spelled) == spelled:  # a token of its own may spell the space
        while start > 0 and tokens[start - 1] and not letters(tokens[start - 1]):
            start -= 1
    return slice(start, end)


def letters(text: str) -> str:
    """Remove white space, which the tokens of some servers lack."""
    return "".join(text.replace("▁", " ").split())
