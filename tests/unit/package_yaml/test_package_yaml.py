"""`package.yaml`: what a good one becomes, and what each kind of mistake says: file, line, column, key, found, expected."""

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.detection import (
    AllOf,
    AnyOf,
    CommandDetection,
    DpkgDetection,
    FileDetection,
    MsiDetection,
    Not,
    RegistryDetection,
    RpmDetection,
)
from pcm.model.errors import RequestError
from pcm.model.package import Package, PackageFile, PackageReference
from pcm.model.program import Limits
from pcm.protocol.package_yaml import PackageDescription, package_schema, read_package_yaml
from pcm.protocol.yaml_tree import MAX_BYTES, DescriptionError, Problem

SEVEN_ZIP = rb"""name: seven-zip
version: "24.08"
release: 12                    # optional; else counted up
publisher: Igor Pavlov
summary: File archiver
platforms: [windows-x86_64, windows-arm64]
parameters:
  INSTALLDIR: {pattern: 'C:\\[\w \\]+', max_length: 120}
programs:
  install:
    command: [msiexec.exe, /i, 7z.msi, /qn, 'INSTALLDIR={INSTALLDIR}']
    run_as: system
    timeout: 20m
    detect: {msi_upgrade_code: '{23170F69-40C1-2702-0000-000004000000}', version: '>= 24.08'}
  uninstall:
    command: [msiexec.exe, /x, 7z.msi, /qn]
"""
SMALL = """name: jq
version: 1.10
platforms: [linux-any]
programs:
  install:
    command: [dpkg, -i, jq.deb]
"""


def read(text: str) -> PackageDescription:
    return read_package_yaml(text.encode())


def with_program(lines: str) -> str:
    return SMALL + "".join(f"    {line}\n" for line in lines.splitlines())


def mistakes(text: str | bytes) -> list[Problem]:
    with pytest.raises(DescriptionError) as caught:
        read_package_yaml(text if isinstance(text, bytes) else text.encode())
    assert isinstance(caught.value, RequestError)
    assert caught.value.code == "request.description"
    return caught.value.problems


def only_mistake(text: str | bytes) -> str:
    (problem,) = mistakes(text)
    return str(problem)


def detection(written: str) -> object:
    return read(with_program(f"detect: {written}")).package.programs["install"].detect


def test_the_design_example_becomes_a_package() -> None:
    description = read_package_yaml(SEVEN_ZIP)
    package = description.package
    assert (package.package, package.version, description.release) == ("seven-zip", "24.08", 12)
    assert package.platforms == ("windows-x86_64", "windows-arm64")
    install = package.programs["install"]
    assert install.argv == ("msiexec.exe", "/i", "7z.msi", "/qn", "INSTALLDIR={INSTALLDIR}")
    assert install.timeout_s == 1200
    assert install.detect == MsiDetection(upgrade_code="{23170F69-40C1-2702-0000-000004000000}", version=">= 24.08")


def test_a_version_keeps_its_spelling() -> None:
    assert read(SMALL).package.version == "1.10"
    assert read(SMALL.replace("1.10", "2026-01-31")).package.version == "2026-01-31"
    assert read(SMALL.replace("jq\n", "on\n", 1)).package.package == "on"


def test_files_and_release_come_later() -> None:
    description = read(SMALL)
    assert description.release is None
    package = description.with_files((PackageFile("jq.deb", 3, "ab" * 32),), 7)
    assert package.release == 7
    assert package.files[0].path == "jq.deb"
    assert msgspec.convert(msgspec.to_builtins(package), Package) == package


@pytest.mark.parametrize(
    ("text", "place", "key"),
    [
        ("icon: logo.png\n" + SMALL, (1, 1), "icon"),
    ],
)
def test_q154931_a_key_that_nothing_acts_on_is_refused(text: str, place: tuple[int, int], key: str) -> None:
    (problem,) = mistakes(text)
    assert ((problem.line, problem.column), problem.key) == (place, key)
    assert "this version of the service does not do this yet" in str(problem)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text.replace("1.10", "'1.10'")), package_schema())


RETURN = """\
  undo:
    command: [dpkg, -i, old.deb]
"""


def test_a_health_check_with_its_return_within_limits_beside_nothing_of_its_kind() -> None:
    text = with_program(
        "health: {command: [jq, --version], installed_when: exit_zero}\nhealth_within: 5m\nrollback_to: undo\n"
        "blocking_processes: [jq, gojq]\nlimits: {memory: 64 MiB, cpu_percent: 150, processes: 32}"
    )
    program = read(text + RETURN).package.programs["install"]
    assert program.health == CommandDetection(["jq", "--version"], "exit_zero")
    assert (program.health_within_s, program.rollback_to, program.blocking_processes) == (300, "undo", ("jq", "gojq"))
    assert program.limits == Limits(memory_bytes=64 * 2**20, cpu_percent=150, processes=32)
    jsonschema.validate(yaml.safe_load((text + RETURN).replace("1.10", "'1.10'")), package_schema())


@pytest.mark.parametrize(
    ("lines", "more", "said"),
    [
        ("rollback_to: undo", RETURN, "need a health check"),
        ("health_within: 5m", "", "need a health check"),
        ("health: {file: /x}\nrollback_to: undo", "", "which is no program of the package"),
        ("health: {file: /x}\nrollback_to: install", "", "which is the same program"),
        ("health: {file: /x}\nrollback_to: undo", RETURN + "    approvals: 1\n", "wants 1 approvals, more than the 0"),
        (
            "health: {file: /x}\nrollback_to: undo",
            RETURN + "    run_as: user\n",
            "runs as user, and this one as system",
        ),
        (
            "health: {file: /x}\nrollback_to: undo",
            RETURN + "    health: {file: /y}\n    rollback_to: install\n",
            "a return is never undone",
        ),
        ("blocking_processes: [/usr/bin/jq]", "", "no file name of a program"),
        ("blocking_processes: ['jq*']", "", "no file name of a program"),
        ("blocking_processes: []", "", "1 to 32 items"),
        ("limits: {}", "", "limits without any limit"),
        ("limits: {memory: 10 KB}", "", "no program can live on less than 1 MiB"),
        ("limits: {memory: 500}", "", "add a unit"),
        ("limits: {cpu: 50}", "", "cpu_percent"),
    ],
)
def test_what_cannot_hold_together_is_told_where_it_stands(lines: str, more: str, said: str) -> None:
    assert any(said in str(problem) for problem in mistakes(with_program(lines) + more))


@pytest.mark.parametrize("name", ["uninstall", "uninstall-old", "purge", "remove", "wipe-data"])
def test_dangerous_programs_want_approvals_unless_told_otherwise(name: str) -> None:
    text = SMALL + f"  {name}:\n    command: [dpkg, -r, jq]\n"
    assert read(text).package.programs[name].approvals == 2
    assert read(text + "    approvals: 0\n").package.programs[name].approvals == 0
    assert read(text + "    dangerous: false\n").package.programs[name].approvals == 0
    assert read(text + "    approvals: 3\n").package.programs[name].approvals == 3


def test_a_packager_can_mark_any_program_as_dangerous() -> None:
    assert read(SMALL).package.programs["install"].approvals == 0
    assert read(with_program("dangerous: true")).package.programs["install"].approvals == 2


def test_every_key_of_a_program_arrives() -> None:
    program = read(
        with_program(
            "run_as: user\npresence: logged_on\ntimeout: 1h30m\nworking_directory: /opt\n"
            "exit_codes: {success: [0, 5], restart: [], retry: [-1]}\nenvironment: {LANG: C.UTF-8, EMPTY: ''}\n"
            "user_requestable: true\n"
            "approvals: 1\nestimated: 90s\ndisk: 1.5 GB"
        )
    ).package.programs["install"]
    assert (program.run_as, program.presence, program.user_requestable) == ("user", "logged_on", True)
    assert (program.timeout_s, program.estimated_s, program.disk_bytes) == (5400, 90, 1_500_000_000)
    assert (program.exit_codes.success, program.exit_codes.restart, program.exit_codes.retry) == ((0, 5), (), (-1,))
    assert program.environment == {"LANG": "C.UTF-8", "EMPTY": ""}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{file: /usr/bin/jq}", FileDetection("/usr/bin/jq")),
        (r"{file: 'C:\Program Files\x.exe'}", FileDetection(r"C:\Program Files\x.exe")),
        ("{file: /a, sha256: " + "0a" * 32 + "}", FileDetection("/a", "0a" * 32)),
        ("{dpkg: jq, version: '>= 1'}", DpkgDetection("jq", ">= 1")),
        ("{rpm: jq}", RpmDetection("jq")),
        ("{command: [jq, --version], installed_when: exit_zero}", CommandDetection(["jq", "--version"], "exit_zero")),
        (
            r"{registry: HKLM\Software\X, value: Y, equals: '1', view: 32}",
            RegistryDetection(r"HKLM\Software\X", "Y", "1", "32"),
        ),
        (
            "{msi_product_code: '{23170F69-40C1-2702-0000-000004000000}'}",
            MsiDetection(product_code="{23170F69-40C1-2702-0000-000004000000}"),
        ),
        (
            "{all: [{dpkg: a}, {any: [{rpm: b}, {not: {file: /c}}]}]}",
            AllOf([DpkgDetection("a"), AnyOf([RpmDetection("b"), Not(FileDetection("/c"))])]),
        ),
    ],
)
def test_detections_have_short_forms(written: str, expected: object) -> None:
    assert detection(written) == expected


def test_references_may_be_names_or_mappings() -> None:
    package = read("requires: [libc, {package: openssl, min_release: 4}]\n" + SMALL).package
    assert package.requires == (PackageReference("libc"), PackageReference("openssl", 4))


def test_anchors_and_aliases_work_within_reason() -> None:
    text = SMALL.replace("[dpkg, -i, jq.deb]", "&go [dpkg, -i, jq.deb]") + "  repair:\n    command: *go\n"
    assert read(text).package.programs["repair"].argv == ("dpkg", "-i", "jq.deb")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALL.replace("name: jq", "nmae: jq"), "package.yaml:1:1: unknown key 'nmae'; expected one of name, version"),
        (SMALL.replace("name: jq\n", ""), "package.yaml:1:1: a package without 'name'; expected name: a package name"),
        (SMALL.replace("name: jq", "name: JQ"), "package.yaml:1:7: name: package name 'JQ' is not allowed"),
        (SMALL.replace("1.10", "1..10"), "package.yaml:2:10: version: version name '1..10' is not allowed"),
        (SMALL.replace("1.10", ""), "package.yaml:2:9: version: found nothing; expected a version such as 24.08"),
        (SMALL.replace("[linux-any]", "linux-any"), "found 'linux-any'; expected a list, each item a platform"),
        (SMALL.replace("linux-any", "linux-x86"), "package.yaml:3:13: platforms[0]: platform 'linux-x86' is not known"),
        (SMALL.replace("[linux-any]", "[]"), "package.yaml:3:12: platforms: a list of 0 items; expected 1 to 16 items"),
        (SMALL.replace("[dpkg, -i, jq.deb]", "dpkg -i jq.deb"), "there is no shell to split a line"),
        (SMALL.replace("command", "comand"), "did you mean 'command'?"),
        (SMALL.replace("command", "argv"), "did you mean 'command'?"),
        ("release: 0\n" + SMALL, "package.yaml:1:10: release: found '0'; expected a whole number from 1"),
        ("release: '7'\n" + SMALL, "remove the quotes"),
        ("release: 007\n" + SMALL, "package.yaml:1:10: release: found '007'"),
        (
            "release: 2\nmin_release: 3\n" + SMALL,
            "package.yaml:2:1: min_release: it is newer than release; expected at most 2",
        ),
        (with_program("working_directory: ../x"), "programs.install.working_directory: path '../x' is not allowed"),
        ("requires: [{name: x}]\n" + SMALL, "did you mean 'package'?"),
        ("supersedes: [two words]\n" + SMALL, "supersedes[0]: package name 'two words' is not allowed"),
        ("replaces: [old-tool]\n" + SMALL, "did you mean 'supersedes'?"),
        ("parameters: {A: {}}\n" + SMALL, "a parameter needs either enum or pattern"),
        ("parameters: {A: {pattern: '('}}\n" + SMALL, "is not a regular expression"),
        ("parameters: {A: {enum: [a], default: b}}\n" + SMALL, "is not one of a"),
        (
            "parameters: {1A: {enum: [a]}}\n" + SMALL,
            "package.yaml:1:14: parameters.1A: parameter name '1A' is not allowed",
        ),
        (
            with_program("timeout: 20"),
            "package.yaml:7:14: programs.install.timeout: found '20'; expected a time such as 20m",
        ),
        (with_program("timeout: 2d"), "at most 1d"),
        (with_program("timeout: 0s"), "found '0s'"),
        (with_program("disk: 5 gigs"), "expected a size such as 1.5 GB"),
        (
            with_program("run_as: root"),
            "package.yaml:7:13: programs.install.run_as: found 'root'; expected system, user or each_user",
        ),
        (with_program("run_as: sytem"), "did you mean 'system'?"),
        (with_program("user_requestable: yes"), "expected true or false (write true)"),
        (with_program("user_requestable: 'true'"), "expected true or false"),
        (with_program("approvals: 21"), "expected a whole number from 0 to 20"),
        (with_program("exit_codes: {success: [0], retry: [0]}"), "an exit code stands in two classes"),
        (with_program("exit_codes: {success: 0}"), "write [0]"),
        (with_program("environment: {'A B': x}"), "cannot be the name of an environment variable"),
        (with_program("detect: jq"), "expected a detection by one of file, dpkg"),
        (with_program("detect: {}"), "an empty mapping"),
        (with_program("detect: {path: /x}"), "did you mean 'file'?"),
        (with_program("detect: {file: usr/bin/x}"), "is not absolute"),
        (
            with_program("detect: {dpkg: a, rpm: b}"),
            "package.yaml:7:23: programs.install.detect: both 'dpkg' and 'rpm'",
        ),
        (with_program("detect: {dpkg: a, version: 1}"), "version constraint '1' is not understood"),
        (
            with_program("detect: {command: [x]}"),
            "without 'installed_when'; expected installed_when: exit_zero or exit_nonzero",
        ),
        (with_program("detect: {file: /a, sha256: AB}"), "is not 64 lower-case hexadecimal digits"),
        (with_program("detect: {msi_product_code: x}"), "is not a GUID in braces"),
        (with_program(r"detect: {registry: HKCU\X, value: y}"), "the service sees no user's registry"),
        (with_program("detect: {all: []}"), "a list of 0 items"),
        (SMALL.replace("[dpkg, -i", "['', -i"), "cannot be empty or a placeholder"),
        (SMALL.replace("jq.deb", "'{FILE}'"), "package.yaml:6:25: programs.install.command[2]: the parameter {FILE}"),
        (
            "parameters: {A: {enum: [a]}}\n" + SMALL.replace("jq.deb", "'x{A}y'"),
            "a placeholder inside 'x{A}y'; expected '{NAME}' or 'WORD={NAME}' as the whole argument",
        ),
    ],
)
def test_each_mistake_says_where_and_what_was_expected(text: str, says: str) -> None:
    assert says in only_mistake(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "package.yaml:1:1: the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"[a]", "package.yaml:1:1: found a list; expected a mapping with name, version, platforms, programs"),
        (b"a: b: c", "package.yaml:1:5: this is not YAML"),
        (b"a:\n\t- b", "package.yaml:2:1: this is not YAML"),
        (b"a: [1", "this is not YAML"),
        (b"ok: a\nbad: \xff", "package.yaml:2:6: bytes that are not UTF-8"),
        (b"a: 1\nb: \x07", "package.yaml:2:1: the character U+0007"),
        (b"---\na: b\n---\nc: d", "package.yaml:3:1: a second document"),
        (
            b"a: 1\nb: 2\na: 3",
            "package.yaml:3:1: the key 'a' a second time; expected each key once (it stands in line 1 too)",
        ),
        (b"? [a]\n: b", "a list as a key"),
        (b"x: !!python/object/apply:os.system [id]", "package.yaml:1:4: the tag"),
        (b"a: *nowhere", "package.yaml:1:4: the alias *nowhere"),
        (b"a: &x [*x]", "the alias *x"),
        (b"[" * 5000, "more than 16 levels"),
        (b"- " * 3000, "more than 16 levels"),
        (b"a: " + b"x" * MAX_BYTES, f"at most {MAX_BYTES} bytes"),
        (b"a: [" + b"x," * 25_000 + b"]", "more than 20000 values"),
        (b'a: "\\UFFFFFFFF"', "this is not YAML"),
        (b"%YAML 1" + b"9" * 5000 + b".1\n---\na", "this is not YAML"),
    ],
    ids=range(20),
)
def test_what_is_no_description_at_all_is_refused_in_one_line(text: bytes, says: str) -> None:
    assert says in only_mistake(text)


def test_a_billion_laughs_stay_cheap() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join(['*a' + str(n - 1)] * 10)}]" for n in range(1, 10)]
    assert any("more than" in str(problem) for problem in mistakes("\n".join(lines)))


def test_aliases_cannot_stack_up_depth() -> None:
    deep = "[" * 10 + "x" + "]" * 10
    text = f"a: &a {deep}\nb: &b {'[' * 4}*a{']' * 4}\nc: {'[' * 4}*b{']' * 4}\n"
    assert any("more than 16 levels" in str(problem) for problem in mistakes(text))


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    problems = mistakes(
        "version: ''\nname: A B\n" + with_program("timeout: x\nrun_as: y").partition("\nversion: 1.10")[2]
    )
    assert [problem.key for problem in problems] == [
        "version", "name", "programs.install.timeout", "programs.install.run_as"
    ]  # fmt: skip
    assert [problem.line for problem in problems] == sorted(problem.line for problem in problems)


def test_a_mistake_below_an_alias_leads_to_its_anchor() -> None:
    text = SMALL.replace("[dpkg, -i, jq.deb]", "&go []") + "  repair:\n    command: *go\n"
    assert {(problem.line, problem.column) for problem in mistakes(text)} == {(6, 14)}


def test_places_lead_back_into_the_file() -> None:
    description = read(SMALL)
    assert description.place("programs.install.command[1]") == (6, 21)
    assert description.place("programs.install.detect") == (5, 3)
    assert description.place("publisher") == (1, 1)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_give_a_list_of_problems(data: bytes) -> None:
    try:
        read_package_yaml(data)
    except DescriptionError as error:
        assert error.problems


_WORDS = st.sampled_from(
    [
        "name",
        "version",
        "platforms",
        "programs",
        "install",
        "command",
        "detect",
        "all",
        "any",
        "not",
        "file",
        "dpkg",
        "linux-any",
        "1",
        "true",
        "20m",
        "'>=",
        "1'",
        "{A}",
        "A=&x",
        "*x",
        "parameters",
        "A",
        "enum",
        "pattern",
        "(",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "-",
        "exit_codes",
        "success",
        "environment",
        "timeout",
        "release",
        "~",
        "''",
    ]
)


@given(st.lists(st.tuples(_WORDS, st.sampled_from(["", " ", ": ", "\n", "\n  ", "\n    ", ", ", "- "])), max_size=40))
def test_arbitrary_arrangements_of_our_own_words_give_a_package_or_problems(words: list[tuple[str, str]]) -> None:
    text = "".join(word + space for word, space in words)
    try:
        read_package_yaml((SMALL + text).encode())
    except DescriptionError as error:
        assert error.problems
        assert all(problem.line >= 1 and problem.column >= 1 for problem in error.problems)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["release", "platforms", "parameters", "requires", "publisher", "programs", "summary"]),
)
def test_any_value_under_any_key_gives_a_package_or_problems(value: object, key: str) -> None:
    document = yaml.safe_load(SMALL) | {"version": "1", key: value}
    text = yaml.safe_dump(document, allow_unicode=True)
    try:
        read_package_yaml(text.encode("utf-8", "surrogatepass"))
    except DescriptionError as error:
        assert error.problems


def test_the_schema_takes_what_the_reader_takes() -> None:
    schema = package_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for text in (
        SEVEN_ZIP.decode(),
        SMALL,
        with_program("detect: {all: [{not: {dpkg: a, version: '>= 1'}}]}\ntimeout: 1h"),
    ):
        assert not list(validator.iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize(
    "text",
    [
        SMALL.replace("command", "comand"),
        SMALL.replace("linux-any", "amiga"),
        with_program("timeout: 20"),
        with_program("detect: {dpkg: a, rpm: b}"),
        with_program("detect: {command: [x]}"),
        with_program("run_as: root"),
        with_program("disk: much"),
    ],
)
def test_the_schema_refuses_what_an_editor_can_see(text: str) -> None:
    assert list(jsonschema.Draft202012Validator(package_schema()).iter_errors(yaml.safe_load(text)))


def test_a_package_may_take_the_place_of_others_but_not_of_itself() -> None:
    package = read("supersedes: [old-tool, older.tool]\n" + SMALL).package
    assert package.supersedes == ("old-tool", "older.tool")
    assert "supersedes[1]: the package itself" in only_mistake(f"supersedes: [old-tool, {package.package}]\n" + SMALL)
