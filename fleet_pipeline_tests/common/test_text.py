"""Text from elsewhere is shown as text, in Markdown and on terminals."""

import pytest
from hypothesis import example, given, strategies as st
from markdown_it import MarkdownIt

from fleet_pipeline.common.text import bounded, fenced, printable, shown

pytestmark = pytest.mark.unit


@given(st.text(max_size=300))
@example("\r``` \r\n```")
@example("`" * 200)
def test_any_text_in_a_fence_is_one_block_of_code_and_nothing_else(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(f"## before\n\n{fenced(text)}\n\n## after")
    kinds = [token.type for token in tokens]
    assert kinds == [
        *["heading_open", "inline", "heading_close"],
        "fence",
        *["heading_open", "inline", "heading_close"],
    ]
    assert tokens[3].content.rstrip("\n") == printable(text).rstrip("\n").replace("\x00", "\ufffd")


def test_what_a_terminal_would_act_on_is_written_out() -> None:
    assert printable("\x1b[31m\u202e") == "\\x1b[31m\\u202e"
    assert printable("\u061ca\u200b\u2028\ufeff\U000e0041") == "\\u061ca\\u200b\\u2028\\ufeff\\U000e0041"
    assert printable("שלום, tab\tand line\n") == "שלום, tab\tand line\n"


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    assert bounded("a" * 10, 10) == "a" * 10
    assert bounded("a" * 1_010, 10).endswith("[... 1,000 more characters, in the Parquet file]")


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_shown_can_be_stored_whatever_a_file_is_called(text: str) -> None:
    shown(text + "caf\udce9").encode()
