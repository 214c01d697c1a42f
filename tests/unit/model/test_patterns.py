"""Patterns mean what they mean in Python, and never take long."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.model.patterns import Pattern
from pcm.model.program import Parameter

atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\d", r"\W", "[0-9a]", "^", "$", r"\Z", r"\.", "(?=a)", "(?!b)"]
)
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "*?", "{0}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)


@given(patterns, st.text("ab1.\n", max_size=7))
def test_it_means_what_it_means_in_python(pattern: str, value: str) -> None:
    assert Pattern(pattern).fits(value) == (re.fullmatch(pattern, value) is not None)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("(a+)+", "a" * 999 + "!"),
        ("(a|a)*", "a" * 999 + "!"),
        ("(a|aa)+$", "a" * 999 + "!"),
        ("(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x", "a" * 1000),
        ("((((((a*)*)*)*)*)*)*b", "a" * 1000),
        ("(((a?){999}){999}){999}b", "a" * 1000),
        ("(?=(a+)+b)(?=(a+)+c)a*", "a" * 1000),
        ("((?=.*x)a)*", "a" * 1000),
        (".{0,65535}.{0,65535}.{0,65535}x", "a" * 1000),
    ],
)
def test_no_value_keeps_it_busy(pattern: str, value: str) -> None:
    """Who holds the policy key chooses the value; a careless packager has signed the pattern."""
    began = time.process_time()
    with pytest.raises(RequestError) as caught:
        Parameter(pattern=pattern, max_length=1000).check("p", value)
    assert caught.value.code == "request.parameter"
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "pattern",
    [r"(a)\1", "(?<=a)b", "(?i)a", "(?i:a)", "a*+", "(?>a)", "(?P<x>a)(?P=x)", "(", "a" + "(" * 30 + "b" + ")" * 30],
)
def test_what_cannot_be_bounded_is_refused_when_it_is_written(pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Parameter(pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        (r"[A-Za-z]:\\[^\n]*", "C:\\Tools", True),
        (r"[0-9]+(\.[0-9]+)*", "10.0.19045", True),
        (r"([a-z0-9-]+\.)+[a-z]{2,}", "a.example.org", True),
        (r"^\d{4}-\d\d$", "2026-01", True),
        (r"^\w+$", "a\n", False),
        (r"(?s).*", "a\nb", True),
        (r".*", "a\nb", False),
    ],
)
def test_ordinary_patterns(pattern: str, value: str, fits: bool) -> None:
    assert Pattern(pattern).fits(value) is fits
