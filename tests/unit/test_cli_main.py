"""The command line: parsing, sentences on stderr, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import prismtop.cli as cli
from prismtop import __version__
from prismtop.command_line import live
from prismtop.commands import choose
from prismtop.demo.workload import PATTERNS
from prismtop.errors import EXIT_DEFECT, PermissionDeniedError
from prismtop.model import Group
from prismtop.settings import setting_infos
from tests.factories import make_group, make_target


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config directory of the test, and no PRISMTOP_ variable of the developer."""
    import os

    for name in [name for name in os.environ if name.startswith("PRISMTOP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def running(monkeypatch: pytest.MonkeyPatch, *groups: Group) -> None:
    import prismtop.targets.discovery as discovery

    monkeypatch.setattr(discovery, "discover", lambda profiles, **_: groups)


def two_engines() -> tuple[Group, Group]:
    return make_group(make_target(100)), make_group(
        make_target(200, engine="sglang"), engine="sglang", version="0.5.23"
    )


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"prismtop {__version__}\n", "")


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_every_command_has_help_with_an_example(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, out, err = run(capsys, *command, "--help")
    assert (code, err) == (0, "")
    assert "example" in out
    assert " ".join(["prismtop", *command]) in out.partition("example")[2]


OPERANDS = {
    "score": ["trace.json"],
    "replay": ["trace.json"],
    "analyze": ["trace.json"],
    "diff": ["a.json", "b.json"],
    "diagnose": ["a.json", "b.json"],
    "trace": ["check", "trace.json"],
    "anomaly": ["list"],
}


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_takes_json(command: str) -> None:
    assert cli.build_parser().parse_args([command, "--json", *OPERANDS.get(command, ())]).json is True


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["wacth"], "there is no command 'wacth'. Did you mean `prismtop watch`?"),
        (["4242"], "there is no command '4242'. For process 4242: `prismtop --pid 4242`."),
        (["watch", "-n", "0"], "argument -n: expected a whole number above 0, not '0'."),
        (["watch", "--pid", "x"], "argument --pid: expected a whole number above 0, not 'x'."),
        (["watch", "--duration", "nan"], "argument --duration: expected a number above 0, not 'nan'."),
        (["watch", "--set", "theme"], "argument --set: expected NAME=VALUE, not 'theme'."),
        (["list", "--set", "them=x"], "--set: there is no setting them; did you mean theme?"),
        (["--json"], "the screen has no JSON form. Use `prismtop watch --json`."),
    ],
)
def test_a_wrong_command_line_is_one_sentence_with_the_next_step(
    capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(f"prismtop: {sentence}")
    assert err.count("\n") == 1


def test_shared_options_stand_before_or_after_the_command() -> None:
    parser = cli.build_parser()
    before, after = parser.parse_args(["--debug", "watch"]), parser.parse_args(["watch", "--debug"])
    assert before.debug is after.debug is True
    assert parser.parse_args(["--pid", "1", "watch"]).pid == [1]


def test_options_that_may_be_repeated_count_before_and_after_the_command() -> None:
    parsed = cli.build_parser().parse_args(
        ["--pid", "1", "--set", "tick-hz=5", "watch", "--pid", "2", "--set", "window-s=4"]
    )
    assert (parsed.pid, parsed.set) == ([1, 2], [("tick_hz", "5"), ("window_s", "4")])


def test_the_patterns_of_the_demo_are_those_of_its_load_generator() -> None:
    assert live.PATTERNS == PATTERNS


def test_flags_are_settings() -> None:
    assert set(cli._SETTING_FLAGS) <= {info.name for info in setting_infos()}


def test_config_show_says_value_and_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRISMTOP_WINDOW_S", "30")
    code, out, _ = run(capsys, "config", "show", "--set", "tick-hz=5", "--json")
    settings = json.loads(out)["settings"]
    assert code == 0
    assert (settings["window_s"]["value"], settings["window_s"]["origin"]) == (30.0, "env PRISMTOP_WINDOW_S")
    assert (settings["tick_hz"]["value"], settings["tick_hz"]["origin"]) == (5.0, "flag")
    assert settings["theme"]["origin"] == "default"


def test_config_show_as_text_is_valid_toml_up_to_the_origin(capsys: pytest.CaptureFixture[str]) -> None:
    from prismtop.toml_text import loads

    _, out, _ = run(capsys, "config")
    lines = [line.rpartition("  (")[0] for line in out.splitlines() if not line.startswith(" ")]
    assert set(loads("\n".join(lines))) == {info.name for info in setting_infos()}


def test_config_path_is_the_file(capsys: pytest.CaptureFixture[str], own_config: Path) -> None:
    assert run(capsys, "config", "path") == (0, f"{own_config}/prismtop/config.toml\n", "")


def test_a_broken_config_file_stops_every_command_but_doctor(
    capsys: pytest.CaptureFixture[str], own_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_config / "prismtop").mkdir()
    (own_config / "prismtop" / "config.toml").write_text("tick_hz = true")
    running(monkeypatch)
    code, _, err = run(capsys, "list")
    assert code == 2
    assert "config.toml:1: tick_hz must be a number" in err
    code, out, _ = run(capsys, "doctor", "--json")
    checks = {check["id"]: check for check in json.loads(out)["checks"]}
    assert code == 1
    assert checks["config"]["status"] == "none"
    assert "tick_hz must be a number" in checks["config"]["reason"]


def test_a_broken_profile_of_the_user_is_named_with_its_file(
    capsys: pytest.CaptureFixture[str], own_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = own_config / "prismtop" / "engines"
    engines.mkdir(parents=True)
    (engines / "mine.toml").write_text('schema = 1\nname = "Mine!"\n')
    running(monkeypatch)
    code, _, err = run(capsys, "list")
    assert code == 2
    assert "mine.toml:" in err
    _, out, _ = run(capsys, "doctor", "--json")
    checks = {check["id"]: check for check in json.loads(out)["checks"]}
    assert checks["profiles.user.mine"]["status"] == "none"
    assert checks["profiles.packaged"]["status"] == "ok"


@pytest.mark.parametrize("argv", [["watch"], ["list"], []])
def test_without_an_engine_it_says_what_it_looked_for_and_offers_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    running(monkeypatch)
    code, out, err = run(capsys, *argv)
    assert (code, out) == (3, "")
    assert err.startswith("prismtop: no inference process found: looked at ")
    assert "vLLM" in err
    assert "`prismtop demo`" in err


def test_an_empty_list_is_an_empty_json_list(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running(monkeypatch)
    code, out, err = run(capsys, "list", "--json")
    assert (code, err) == (3, "")
    assert json.loads(out) == {"v": 1, "type": "list", "groups": []}


def test_several_engines_without_a_terminal_are_listed_with_their_pids(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running(monkeypatch, *two_engines())
    code, _, err = run(capsys, "watch")
    assert code == 2
    assert "2 engines are running: 100 (vllm 0.33.0), 200 (sglang 0.5.23)." in err
    assert "`--pid 100`" in err


def test_the_screen_without_a_terminal_points_to_watch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running(monkeypatch, two_engines()[0])
    code, _, err = run(capsys)
    assert code == 2
    assert err == (
        "prismtop: the screen needs a terminal. Use `prismtop watch` for a table, `--json` for JSON lines.\n"
    )


def test_a_dead_pid_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "watch", "--pid", "2147483000")
    assert (code, out) == (2, "")
    assert "2147483000" in err


def test_pids_of_two_engines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import prismtop.targets.discovery as discovery

    vllm, sglang = two_engines()
    monkeypatch.setattr(discovery, "group_of", lambda pid, profiles, **_: vllm if pid == 100 else sglang)
    with pytest.raises(cli.UsageError, match=r"process 200 runs sglang 0\.5\.23, process 100 vllm 0\.33\.0"):
        choose.named_group([100, 200], {})


def test_pids_of_one_engine_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    import prismtop.targets.discovery as discovery

    groups = {pid: make_group(make_target(pid)) for pid in (1, 2)}
    monkeypatch.setattr(discovery, "group_of", lambda pid, profiles, **_: groups[pid])
    assert [member.id.pid for member in choose.named_group([1, 2, 1], {}).members] == [1, 2]


def test_the_list_shows_the_process_tree_and_why_there_is_no_way_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend = make_target(10, role="frontend", probed=False, ports=(8000,))
    core = make_target(11, parent=frontend.id, way_in="external", refusal="it is traced by strace (pid 9).")
    worker = make_target(12, role="worker", parent=core.id, ranks=(("TP", 0),))
    running(monkeypatch, make_group(frontend, core, worker))
    code, out, _ = run(capsys, "list")
    lines = out.splitlines()
    assert code == 0
    assert lines[1].split() == [
        "10",
        "vllm",
        "0.33.0",
        "frontend",
        "-",
        "3.12.1",
        "8000",
        "root",
        "not",
        "needed",
    ]
    assert lines[2].startswith("  11 ")
    assert lines[3].startswith("    12 ")
    assert "TP0" in lines[3]
    assert lines[4] == "11: it is traced by strace (pid 9)."


def test_a_permission_error_is_exit_code_four_with_its_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionDeniedError("process 1 belongs to root.", fix="Run `sudo prismtop --pid 1`.")

    monkeypatch.setattr(choose, "only_group", refuse)
    monkeypatch.setattr("prismtop.commands.watch.only_group", refuse)
    assert run(capsys, "watch") == (
        4,
        "",
        "prismtop: process 1 belongs to root. Run `sudo prismtop --pid 1`.\n",
    )


def test_a_defect_is_one_sentence_and_a_traceback_only_with_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: Any) -> None:
        raise ZeroDivisionError("divided\x1b[2J")

    monkeypatch.setattr("prismtop.commands.listing.run", break_down)
    code, out, err = run(capsys, "list")
    assert (code, out) == (EXIT_DEFECT, "")
    assert err.count("\n") == 1
    assert "ZeroDivisionError: divided\ufffd[2J" in err
    _, _, err = run(capsys, "list", "--debug")
    assert "Traceback (most recent call last)" in err
