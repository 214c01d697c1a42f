"""What a name on the command line means: an id or a job before a package, what counts before what is over, and no guess."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.service.naming import Named, choose, words


def named(number: int, package: str, *, counts: bool = True) -> Named:
    return Named(f"{number:04}-viewer", f"job-{number}", package, f"{package} 1.{number}", counts)


ONE, TWO, OVER = named(1001, "viewer"), named(1002, "viewer"), named(1003, "viewer", counts=False)


def test_a_package_means_its_only_order_that_counts() -> None:
    assert choose("viewer", [ONE, OVER, named(5, "editor")]) == ONE.id
    assert choose("viewer", [OVER]) == OVER.id
    assert choose("nothing", [ONE]) is None


def test_of_several_none_is_guessed_and_each_is_named() -> None:
    with pytest.raises(RequestError) as caught:
        choose("viewer", [ONE, TWO, OVER])
    assert caught.value.code == "request.ambiguous"
    assert f"{ONE.id} (viewer 1.1001); {TWO.id} (viewer 1.1002)" in caught.value.message
    assert OVER.id not in caught.value.message
    with pytest.raises(RequestError, match="and 92 more"):
        choose("viewer", [named(number, "viewer") for number in range(100)])


def test_an_id_or_a_job_is_itself_although_a_package_has_that_name_too() -> None:
    assert choose(ONE.id, [ONE, TWO]) == ONE.id
    assert choose("job-1002", [ONE, TWO, named(7, "job-1002")]) == "job-1002"
    assert choose("1001", [ONE, TWO]) == ONE.id  # the beginning of one
    assert choose("10", [ONE]) is None  # too little of one


@given(st.lists(st.text(max_size=30), max_size=8))
def test_a_shell_gets_plain_words_only(packages: list[str]) -> None:
    found = words(named(number, package) for number, package in enumerate(packages))
    assert set(found) <= set(packages)
    assert all(word and not set(word) & set(" \n\t$`;&|<>()'\"\\*?") for word in found)
