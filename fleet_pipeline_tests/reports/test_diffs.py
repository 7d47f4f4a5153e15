"""What a revision changed."""

import pytest
from hypothesis import given, strategies as st

from fleet_pipeline.reports.diffs import MOST_WORDS, Revision, word_diff

pytestmark = pytest.mark.unit

texts = st.lists(st.sampled_from(["the", "lock", "is", "held", "\n", "- ", "\t", "<b>", "é"]), max_size=40).map(
    " ".join
)


@given(before=texts, after=texts)
def test_what_is_left_and_what_came_are_the_text_after_and_what_is_left_and_went_the_words_before(
    before: str, after: str
) -> None:
    pieces = word_diff(before, after)
    assert pieces is not None
    assert "".join(one.text for one in pieces if one.kind != "gone") == after.lstrip()
    assert "".join(one.text for one in pieces if one.kind != "new").split() == before.split()


def test_a_word_that_is_replaced_stands_beside_the_one_that_it_replaces() -> None:
    pieces = word_diff("Take the lock first.", "Take the lease first.")
    assert pieces == [("same", "Take the "), ("gone", "lock "), ("new", "lease "), ("same", "first.")]
    assert Revision(pieces).words == "1 words came, 1 went"


def test_a_line_that_is_broken_elsewhere_is_no_change() -> None:
    assert Revision(word_diff("one two\nthree", "one\ntwo three")).words == "no word was changed"


def test_texts_that_are_too_long_are_not_compared() -> None:
    assert word_diff("word " * (MOST_WORDS + 1), "word") is None
    assert Revision(None).words == "too long to be compared word by word"
