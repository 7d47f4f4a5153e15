"""Texts of models as Markdown that does nothing."""

import pytest
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.reports.diffs import word_diff
from fleet_pipeline.reports.discussion import revised
from fleet_pipeline.reports.markdown import diff, inert, plain
from fleet_pipeline_tests.support.hostile import HOSTILE
from fleet_pipeline_tests.support.rows import a_seat, an_utterance

pytestmark = pytest.mark.unit

READER = MarkdownIt().enable(["table", "strikethrough"])
ACTIVE = {"image", "link_open", "html_block", "html_inline"}
pieces = st.sampled_from(
    ["```", "````", "~~~", "`", "``", "\n", "\n\n", "    ", "- ", "1. ", "> ", "# ", "![x](http://h/p.png)", "[a]: http://h",
     "[a]", "<img src=x>", "<!-- ", "http://h", "a@b.example", "\\", "\t", "**", "text", "|a|b|\n|-|-|", "&lt;", "![", "](", "\r", "\x0b"]
)  # fmt: skip


def all_tokens(markdown: str) -> list[Token]:
    return [one for token in READER.parse(markdown) for one in (token, *(token.children or ()))]


@settings(max_examples=300)
@given(st.lists(pieces, max_size=30).map("".join))
def test_no_text_becomes_a_link_a_picture_or_html(text: str) -> None:
    assert not ACTIVE & {one.type for one in all_tokens(inert(text, 10_000))}
    assert not ACTIVE & {one.type for one in all_tokens(f"1. {plain(text)}")}
    changed = word_diff("before " + text, text + " after")
    assert not ACTIVE & {one.type for one in all_tokens(diff(changed or ()))}


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_have_tried_is_shown(text: str) -> None:
    assert not ACTIVE & {one.type for one in all_tokens(inert(text, 10_000))}


def test_headings_lists_emphasis_lines_and_code_are_kept() -> None:
    text = "# Plan\nfirst line\nsecond line\n\n- one\n- **two**\n\n```python\nx = a[0]  # <b>\n```\nend"
    tokens = all_tokens(inert(text, 10_000))
    kinds = [one.type for one in tokens]
    assert {"heading_open", "bullet_list_open", "strong_open", "hardbreak", "fence"} <= set(kinds)
    (code,) = [one.content for one in tokens if one.type == "fence"]
    assert code == "x = a[0]  # <b>\n"
    assert "".join(one.content for one in tokens if one.type == "text").startswith("Planfirst linesecond lineonetwo")


def test_what_went_is_struck_out_and_what_came_is_bold() -> None:
    seat = a_seat(1, "Use a lease.", winner=True)
    said = [
        an_utterance(text="# Begin: use *a* lock."),
        an_utterance(phase=Phase.REVISE, round=1, text="# Begin: use *a* lease."),
    ]
    tokens = all_tokens(revised([seat], said))
    (heading,) = [tokens[place + 1].content for place, one in enumerate(tokens) if one.type == "heading_open"]
    assert heading == "agent-dev-001 (A), round 1: 1 words came, 1 went"
    assert [tokens[place + 1].content for place, one in enumerate(tokens) if one.type == "s_open"] == ["lock."]
    assert [tokens[place + 1].content for place, one in enumerate(tokens) if one.type == "strong_open"] == ["lease."]
    assert "# Begin: use *a*" in "".join(one.content for one in tokens if one.type in ("text", "text_special"))
    assert revised([seat], said[:1]) == ""
