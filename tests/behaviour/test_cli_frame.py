"""What every command keeps to: streams, exit codes, errors, colour, help, interruption."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import treadle
from treadle import cli, errors
from treadle.cli import exit as codes
from treadle.cli import invoke, output

TREADLE = [sys.executable, "-m", "treadle"]
Captured = pytest.CaptureFixture[str]


@click.command()
def failing() -> None:
    """Stand in for a command that fails; what it raises is set by the test."""
    raise FAILURES[-1]


FAILURES: list[BaseException] = []


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Add a command `failing` that raises the last failure of the list."""
    monkeypatch.setitem(cli.COMMANDS, "failing", (f"{__name__}:failing", "Fail."))
    FAILURES.clear()
    return FAILURES


def test_help_goes_to_stdout_and_lists_every_command_in_one_line_each(capsys: Captured) -> None:
    assert invoke(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, (_, line) in cli.COMMANDS.items():
        assert any(row.split()[:1] == [name] and row.endswith(line) for row in out.splitlines())


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help(name: str, capsys: Captured) -> None:
    assert invoke([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: treadle {name}")
    assert "Options of every command: treadle --help" in out or "Commands:" in out
    assert err == ""


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_line_of_the_table_is_the_first_sentence_of_the_command(name: str, capsys: Captured) -> None:
    command = cli.group.get_command(click.Context(cli.group), name)
    assert command is not None
    assert command.name == name
    assert command.help


def test_the_version_is_printed(capsys: Captured) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"treadle {treadle.__version__}\n"


def test_no_command_prints_the_help_on_stderr_and_is_a_usage_error(capsys: Captured) -> None:
    assert invoke([]) == codes.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "Commands:" in err


def test_a_misspelt_command_names_the_one_that_was_meant(capsys: Captured) -> None:
    assert invoke(["valdate"]) == codes.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "error[TR070]: there is no command 'valdate'; did you mean 'validate'?"


def test_an_unknown_option_says_how_the_command_is_used(capsys: Captured) -> None:
    assert invoke(["config", "show", "--orgin"]) == codes.USAGE
    err = capsys.readouterr().err
    assert "--origin" in err.splitlines()[0]
    assert "usage: treadle config show" in err
    assert "see:   treadle config show --help" in err


@pytest.mark.parametrize("before", [True, False])
def test_the_options_of_every_command_stand_before_or_after_its_name(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--tenant", "acme", "--store", "sqlite://:memory:"]
    arguments = [*options, "config", "show"] if before else ["config", "show", *options]
    assert invoke(arguments) == 0
    out = capsys.readouterr().out
    assert "acme" in out
    assert "sqlite://:memory:" in out


@pytest.mark.parametrize("name", ["answer", "cancel", "resume", "show", "submit", "tail"])
def test_what_is_done_with_a_run_takes_the_options_of_every_command_after_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["runs", name, "run_1", "--store", str(tmp_path / "one.db"), "--tenant", "acme"]) == 6
    assert "run_1" in capsys.readouterr().err


def test_an_option_after_the_command_wins_over_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["--tenant", "first", "config", "show", "--tenant", "second"]) == 0
    out = capsys.readouterr().out
    assert "second" in out
    assert "first" not in out


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (errors.DefinitionError([errors.Problem(code="TR104", message="unknown field 'x'")]), 3),
        (errors.ConfigurationError("no"), 3),
        (errors.GraphError("no", node="a"), 3),
        (errors.ModelNotConfigured("no"), 4),
        (errors.ProviderError("no"), 4),
        (errors.ContextLengthError("no"), 4),
        (errors.NotFound("run", "run_1"), 6),
        (errors.StoreError("no"), 1),
        (errors.ThreadBusy("no"), 1),
        (errors.TreadleError("no"), 1),
        (ValueError("a defect"), 1),
        (click.UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else str(x),
)
def test_an_error_has_an_exit_code_and_leaves_no_stack_trace(
    raising: list[BaseException], failure: BaseException, code: int, capsys: Captured
) -> None:
    raising.append(failure)
    assert invoke(["failing"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    if code != codes.INTERRUPTED:
        assert "error[TR" in err or "error TR" in err


def test_an_error_is_its_code_what_happened_and_what_to_do(
    raising: list[BaseException], capsys: Captured
) -> None:
    raising.append(
        errors.ModelNotConfigured('model "nope" is not configured', hint="known: offline\nadd one: …")
    )
    assert invoke(["failing"]) == codes.MODEL
    assert capsys.readouterr().err.splitlines() == [
        'error[TR041]: model "nope" is not configured',
        "  known: offline",
        "  add one: …",
    ]


def test_a_defect_says_how_to_see_where_it_is(raising: list[BaseException], capsys: Captured) -> None:
    raising.append(ZeroDivisionError("by zero"))
    assert invoke(["failing"]) == codes.FAILED
    err = capsys.readouterr().err
    assert err.startswith("error[TR000]: treadle broke: ZeroDivisionError: by zero")
    assert "TREADLE_DEBUG=1" in err


def test_treadle_debug_lets_the_stack_trace_through(
    raising: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    raising.append(ZeroDivisionError("by zero"))
    monkeypatch.setenv("TREADLE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        invoke(["failing"])


@pytest.mark.parametrize(
    ("environ", "terminal", "color"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"FORCE_COLOR": "1", "TERM": "dumb"}, False, True),
    ],
)
def test_color_follows_the_conventions_of_terminals(
    environ: dict[str, str], terminal: bool, color: bool
) -> None:
    class Stream:
        def isatty(self) -> bool:
            return terminal

    assert output.wants_color(Stream(), environ=environ) is color  # type: ignore[arg-type]


def test_the_width_is_what_columns_says() -> None:
    assert output.width(environ={"COLUMNS": "63"}) == 63
    assert output.width(environ={"COLUMNS": "wide"}) > 0


def test_errors_are_red_where_color_is_forced(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert invoke(["nope"]) == codes.USAGE
    assert "\x1b[31;1merror[TR070]\x1b[0m" in capsys.readouterr().err


@pytest.mark.parametrize(
    "status", ["completed", "failed", "cancelled", "requires_action", "incomplete", "expired"]
)
def test_every_end_of_a_run_has_its_exit_code(status: str) -> None:
    assert codes.of_run(status) == {"completed": 0, "requires_action": 5, "incomplete": 7, "expired": 7}.get(
        status, 1
    )


def test_nobody_is_asked_where_stdin_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert not output.can_ask()


def test_python_m_treadle_is_the_same_command_line() -> None:
    done = subprocess.run([*TREADLE, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"treadle {treadle.__version__}\n"


def test_a_reader_that_goes_away_is_no_error_message() -> None:
    with subprocess.Popen(
        [*TREADLE, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == codes.BROKEN_PIPE


def test_an_interrupt_leaves_with_130_and_no_stack_trace(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, click, treadle.cli\n"
        "@click.command()\n"
        "def waiting():\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # A shell's background jobs ignore it.
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    signal.pause()\n"
        "sys.modules['waiting_command'] = sys.modules['__main__']\n"
        "treadle.cli.COMMANDS['waiting'] = ('waiting_command:waiting', 'Wait.')\n"
        "treadle.cli.main(['waiting'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 128 + signal.SIGINT
    assert "Traceback" not in done.stderr
