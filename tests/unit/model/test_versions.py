"""Version constraints and the ordering of versions of unknown origin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.model.versions import check_constraint, compare_versions, satisfies

texts = st.from_regex(r"[0-9]{1,4}(\.[0-9a-z~]{1,4}){0,4}", fullmatch=True)


@pytest.mark.parametrize(
    ("left", "right", "order"),
    [
        ("1.10", "1.9", 1),
        ("1.0", "1.0.0", 0),
        ("24.08", "24.8", 0),
        ("1.0~rc1", "1.0", -1),
        ("1.0", "1.0.1", -1),
        ("2", "10", -1),
        ("1.2a", "1.2b", -1),
        ("1.2a", "1.2.1", -1),
    ],
)
def test_order(left: str, right: str, order: int) -> None:
    assert compare_versions(left, right) == order
    assert compare_versions(right, left) == -order


@given(texts, texts, texts)
def test_it_is_an_order(a: str, b: str, c: str) -> None:
    assert compare_versions(a, a) == 0
    assert compare_versions(a, b) == -compare_versions(b, a)
    if compare_versions(a, b) <= 0 and compare_versions(b, c) <= 0:
        assert compare_versions(a, c) <= 0


def test_constraints() -> None:
    assert check_constraint(">= 24.08") == (">=", "24.08")
    assert check_constraint("<2") == ("<", "2")
    for bad in ("24.08", ">=", "=> 1", ">= 1 2", ""):
        with pytest.raises(RequestError):
            check_constraint(bad)
    assert satisfies(0, ">=")
    assert satisfies(1, ">=")
    assert not satisfies(-1, ">=")
    assert satisfies(0, "=")
    assert not satisfies(0, "<")
    assert satisfies(-1, "<=")
    assert satisfies(1, ">")
