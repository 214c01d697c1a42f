"""Programs: argument lists, parameters, exit codes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.model.program import ExitClass, ExitCodes, Parameter, Program, build_argv, check_parameters

FOLDER = Parameter(pattern=r"[\w /:\\-]+", max_length=40)


def test_q166245_spaces_never_split_an_argument() -> None:
    program = Program(argv=("setup", "/dir", "{DIR}", "TARGET={DIR}"))
    assert build_argv(program, {"DIR": FOLDER}, {"DIR": "C:\\Program Files -x"}) == (
        "setup",
        "/dir",
        "C:\\Program Files -x",
        "TARGET=C:\\Program Files -x",
    )


@given(st.dictionaries(st.sampled_from(["A", "B"]), st.text(max_size=30)))
def test_values_never_change_the_number_of_arguments_nor_the_fixed_ones(given_values: dict[str, str]) -> None:
    program = Program(argv=("run", "{A}", "--x", "B={B}", "{notwhole} {A}"))
    declared = {"A": Parameter(pattern="(?s).*"), "B": Parameter(pattern="(?s).*", default="")}
    try:
        argv = build_argv(program, declared, given_values)
    except RequestError:
        return
    assert len(argv) == 5
    assert (argv[0], argv[2], argv[4]) == ("run", "--x", "{notwhole} {A}")
    assert argv[3].startswith("B=")


@pytest.mark.parametrize(
    ("declared", "values", "why"),
    [
        ({}, {"X": "1"}, "not declared"),
        ({"X": Parameter(enum=("a", "b"))}, {"X": "c"}, "not one of a, b"),
        ({"X": Parameter(pattern="[a-z]+")}, {"X": "a\n"}, "does not match"),
        ({"X": Parameter(pattern=".*", max_length=3)}, {"X": "abcd"}, "longer than 3"),
        ({"X": Parameter(pattern="(?s).*")}, {"X": "a\0"}, "NUL"),
        ({"X": Parameter(pattern=".*")}, {"bad name": "a"}, "not allowed"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(declared: dict[str, Parameter], values: dict[str, str], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        check_parameters(declared, values)


def test_a_secret_value_is_not_repeated_in_the_message() -> None:
    with pytest.raises(RequestError) as caught:
        check_parameters({"P": Parameter(pattern="[a-z]+", secret=True)}, {"P": "hunter2"})
    assert "hunter2" not in caught.value.message


def test_a_parameter_without_value_or_default_is_named() -> None:
    with pytest.raises(RequestError, match="'X' has no value"):
        build_argv(Program(argv=("a", "{X}")), {"X": Parameter(enum=("1",))}, {})


def test_an_undeclared_placeholder_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        build_argv(Program(argv=("a", "P={X}")), {}, {})
    assert caught.value.code == "request.placeholder"


@pytest.mark.parametrize("argv", [[], [""], ["{X}"], ["P={X}"], ["a", "b\0"]])
def test_an_argument_list_that_cannot_run_is_malformed(argv: list[str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"argv": argv}, Program)


@pytest.mark.parametrize(
    "parameter", [{}, {"enum": ["a"], "pattern": "a"}, {"pattern": "("}, {"enum": ["a"], "default": "b"}]
)
def test_a_parameter_that_cannot_be_checked_is_malformed(parameter: dict[str, object]) -> None:
    with pytest.raises((msgspec.ValidationError, RequestError)):
        msgspec.convert(parameter, Parameter)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, ExitClass.SUCCESS),
        (1707, ExitClass.SUCCESS),
        (3010, ExitClass.RESTART),
        (1641, ExitClass.RESTARTING),
        (1618, ExitClass.RETRY),
        (1602, ExitClass.CANCELLED),
        (1604, ExitClass.FAILED),
        (3011, ExitClass.FAILED),
        (-1, ExitClass.FAILED),
        (None, ExitClass.FAILED),
    ],
)
def test_q216744_exit_codes_have_classes(code: int | None, expected: ExitClass) -> None:
    assert ExitCodes().classify(code) is expected


def test_q190135_no_exit_code_is_never_success() -> None:
    assert ExitCodes(success=tuple(range(64)), restart=(), retry=()).classify(None) is ExitClass.FAILED


def test_a_code_in_two_classes_is_malformed() -> None:
    with pytest.raises(msgspec.ValidationError, match="two classes"):
        msgspec.convert({"success": [0, 3010]}, ExitCodes)
