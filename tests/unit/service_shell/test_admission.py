"""Step 9: who is answered, while somebody floods the local socket."""

from hypothesis import given
from hypothesis import strategies as st

from pcm.service.admission import AT_ONCE, BURST, FOR_ADMINISTRATORS, PER_USER, Admission


def test_a_user_has_so_many_connections_at_once() -> None:
    admission = Admission()
    assert [admission.enter(1000, 0.0) for _ in range(PER_USER + 1)] == [True] * PER_USER + [False]
    admission.leave(1000)
    assert admission.enter(1000, 0.0)


def test_one_users_flood_costs_no_other_user() -> None:
    admission = Admission()
    while admission.enter(1000, 0.0):
        pass
    assert admission.enter(1001, 0.0)
    assert admission.enter(0, 0.0)


def test_a_user_asks_only_so_fast() -> None:
    admission = Admission()
    answered = 0
    for _ in range(1000):
        if admission.enter(1000, 5.0):
            admission.leave(1000)
            answered += 1
    assert answered == BURST
    assert not admission.enter(1000, 5.5)
    assert admission.enter(1000, 6.5)


def test_room_is_kept_for_the_administrator() -> None:
    admission = Admission()
    entered = sum(admission.enter(user, 0.0) for user in range(1000, 1000 + AT_ONCE * 2))
    assert entered == AT_ONCE - FOR_ADMINISTRATORS
    assert [admission.enter(0, 0.0) for _ in range(FOR_ADMINISTRATORS + 1)] == [True] * FOR_ADMINISTRATORS + [False]


def test_the_memory_of_users_is_bounded() -> None:
    admission = Admission()
    for user in range(1, 5000):
        if admission.enter(user, user / 1000):
            admission.leave(user)
    assert len(admission._buckets) <= 256


def test_leaving_twice_opens_no_extra_room() -> None:
    admission = Admission()
    admission.leave(1000)
    assert admission.total == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=200))
def test_never_more_at_once_than_allowed(moves: list[tuple[bool, int]]) -> None:
    admission, inside = Admission(), []
    for step, (coming, user) in enumerate(moves):
        if coming and admission.enter(user, float(step)):
            inside.append(user)
        elif not coming and user in inside:
            inside.remove(user)
            admission.leave(user)
        assert admission.total == len(inside) <= AT_ONCE
        assert all(inside.count(each) <= PER_USER for each in set(inside) - {0})
