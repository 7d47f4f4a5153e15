import pytest
from hypothesis import example, given, strategies as st

from fleet_pipeline.scoring.text import stems, units

pytestmark = pytest.mark.unit


@given(st.text(alphabet=st.sampled_from("aZ0bC _-.!?;:\n\t\r\x1c\x85\u2028。éK世"), max_size=60))
@example("fooBar. BazQux;\nline 2:\n\n  - itemA1B")
@example("one.\x1ctwo")
def test_the_units_of_a_text_have_the_stems_that_each_has_alone(text: str) -> None:
    for unit in units(text):
        assert unit.stems == stems(unit.text)
        assert unit.text == unit.text.strip() != ""
        assert "\n" not in unit.text


def test_sentences_and_lines_are_units_and_names_in_camel_case_are_split() -> None:
    texts = [unit.text for unit in units("Use rateLimiter. Then\nrun it: now; or later!  Done? 終わり。次")]
    assert texts == ["Use rateLimiter.", "Then", "run it:", "now;", "or later!", "Done?", "終わり。", "次"]
    assert stems("rateLimiter") == stems("rate Limiter")
    assert stems("aB1C") == stems("a B1 C")
