"""Text that arrives in pieces is shown whole or not at all."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whimbrel.backends.text import StopStrings, Utf8Stream
from whimbrel.errors import InvalidParameter


@given(st.text(min_size=1), st.lists(st.integers(0, 60)))
def test_characters_are_never_split(text: str, cuts: list[int]) -> None:
    data, stream, shown = text.encode(), Utf8Stream(), []
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for start, end in pairwise(edges):
        shown.append(stream.feed(data[start:end]))
        assert text.startswith("".join(shown))
    assert "".join(shown) == text


def test_what_is_no_utf8_is_replaced_and_a_cut_off_character_is_not_shown() -> None:
    stream = Utf8Stream()
    assert stream.feed(b"a\xff\xc3") == "a\ufffd"
    assert stream.feed(b"\xa9\xe2\x82") == "é"


@given(st.text(alphabet="ab", max_size=30), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
       st.lists(st.integers(0, 30)))  # fmt: skip
def test_stop_strings_end_the_text_where_they_begin(text: str, stops: list[str], cuts: list[int]) -> None:
    found = [text.find(stop) for stop in stops if stop in text]
    finder, shown = StopStrings(stops), ""
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    for start, end in pairwise(edges):
        shown += finder.feed(text[start:end])
        assert not any(stop in shown for stop in stops)
    if not found:
        assert shown + finder.flush() == text and finder.found is None
    elif len(edges) == 2:
        assert shown == text[: min(found)] and finder.found is not None
    else:  # a stop string that is complete ends the text before a longer one that began earlier is complete
        assert text.startswith(shown) and finder.found is not None and text[len(shown) :].startswith(finder.found)


def test_text_is_held_back_only_as_long_as_needed() -> None:
    finder = StopStrings(["<end>"])
    assert finder.feed("abc<e") == "abc"
    assert finder.feed("n") == ""
    assert finder.feed("x<") == "<enx"
    assert finder.feed("end>tail") == ""
    assert finder.found == "<end>"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="stop=''"):
        StopStrings(["a", ""])
