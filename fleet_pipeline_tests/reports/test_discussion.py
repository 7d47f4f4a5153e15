"""What a council said, and its picture, as the UI shows them."""

from xml.etree import ElementTree

import pytest
from markdown_it import MarkdownIt

from fleet_pipeline.deliberation.exchange import AgentError
from fleet_pipeline.deliberation.prompts import Phase
from fleet_pipeline.reports.discussion import MOST_TOGETHER, discussion, reasoning
from fleet_pipeline.reports.pictures import council_picture
from fleet_pipeline_tests.support.hostile import HOSTILE
from fleet_pipeline_tests.support.rows import a_seat, an_utterance

pytestmark = pytest.mark.unit

CUT_OFF = AgentError.CUT_OFF


def test_a_discussion_shows_each_proposal_with_its_critiques_and_revisions_as_text() -> None:
    seat = a_seat(1, winner=True)
    said = [
        an_utterance(text=HOSTILE[0]),
        an_utterance(phase=Phase.CRITIQUE, agent_id="agent-dev-002", label="B", round=1, text=HOSTILE[2]),
        an_utterance(phase=Phase.REVISE, round=1, text="", error_type=CUT_OFF, error_message="raise max_tokens"),
        an_utterance(
            phase=Phase.REVISE, round=1, attempt=2, text="better", reasoning=HOSTILE[1], shortened="truncated"
        ),
    ]
    tokens = MarkdownIt().parse(discussion([seat], said))
    headings = [tokens[place + 1].content for place, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == [
        "agent-dev-001 (A), rank 1",
        "Opening proposal",
        "Critique in round 1, by agent-dev-002 (B)",
        "Revision 1",
        "Revision 1 (attempt 2)",
    ]
    code = [token.content.rstrip("\n") for token in tokens if token.type == "fence"]
    assert code == [HOSTILE[0], HOSTILE[2], "raise max_tokens", "better"]
    assert "Not whole: cut at its token limit" in discussion([seat], said)
    assert HOSTILE[1] not in discussion([seat], said)
    assert HOSTILE[1] in reasoning(said)


def test_long_lines_are_folded_and_lose_nothing_but_that() -> None:
    seat = a_seat(1, winner=True)
    text = "    indented " + "word " * 100 + "\n\n" + "x" * 500
    (block,) = [one for one in MarkdownIt().parse(discussion([seat], [an_utterance(text=text)])) if one.type == "fence"]
    assert max(len(line) for line in block.content.splitlines()) <= 110
    assert block.content.replace("\n", "") == text.replace("\n", "")


def test_a_discussion_stays_bounded_however_much_is_said() -> None:
    seats = [a_seat(n, winner=n == 1) for n in range(1, 65)]
    said = [
        an_utterance(about_agent_id=seat.agent_id, text="x" * 1_000_000, round=r) for seat in seats for r in range(9)
    ]
    assert len(discussion(seats, said)) < 2 * MOST_TOGETHER


def test_a_council_of_any_size_has_a_small_picture_also_where_figures_are_absent() -> None:
    import numpy as np

    for n in (1, 2, 3, 16, 17, 64):
        labels = [f"{place}" for place in range(n)]
        nothing: list[float | None] = [None] * n
        svg = council_picture(labels, np.eye(n), nothing, nothing, nothing, None)
        assert len(svg) < 25_000
        assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_a_picture_shows_each_similarity_each_place_and_the_winner_s_name_in_bold() -> None:
    import numpy as np

    matrix = np.array([[1.0, 0.37], [0.37, 1.0]])
    svg = ElementTree.fromstring(council_picture(["A<", "B"], matrix, [0.2, 0.4], [0.5, 0.5], [0.1, None], 1))
    texts = [(text.text, text.get("font-weight")) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text, _ in texts if text in ("0.37", "1.00")] == ["1.00", "0.37", "0.37", "1.00"]
    assert [name for name, weight in texts if weight == "bold"] == ["B"]
    assert ("A<", None) in texts
    first, second = svg.iter("{http://www.w3.org/2000/svg}circle")
    assert float(first.get("cx", "")) < float(second.get("cx", ""))
    assert first.get("cy") == second.get("cy")


def test_two_councils_with_other_figures_have_other_pictures() -> None:
    import numpy as np

    matrix = np.array([[1.0, 0.3], [0.3, 1.0]])
    first = council_picture(["A", "B"], matrix, [0.2, 0.4], [0.5, 0.5], [0.1, None], 0)
    second = council_picture(["A", "B"], np.eye(2), [None, 0.4], [0.5, 0.5], [None, None], None)
    again = council_picture(["A", "B"], matrix, [0.2, 0.4], [0.5, 0.5], [0.1, None], 0)
    assert first != second
    assert first == again
