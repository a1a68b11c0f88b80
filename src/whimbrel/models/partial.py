"""Marks in text that arrives in pieces: what the text so far ends with may be the beginning of one."""


def overlap(text: str, mark: str) -> int:
    """Length of the longest proper beginning of ``mark`` that ``text`` ends with."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
