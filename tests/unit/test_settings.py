"""Where settings come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismtop.errors import EXIT_USAGE, UsageError
from prismtop.settings import Settings, config_path, load_settings, setting_infos, unknown_variables


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path, flags: dict[str, object] | None = None, env: dict[str, str] | None = None) -> Settings:
    return load_settings(flags or {}, env or {}, path)


def refusal(
    path: Path, flags: dict[str, object] | None = None, env: dict[str, str] | None = None
) -> UsageError:
    with pytest.raises(UsageError) as caught:
        load(path, flags, env)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value


def test_without_any_source_every_setting_is_its_default(tmp_path: Path) -> None:
    settings = load_settings({}, {"PRISMTOP_CONFIG": str(write(tmp_path, ""))})
    assert settings == Settings(origins=settings.origins)
    assert set(settings.origins.values()) == {"default"}


def test_a_flag_wins_over_environment_and_file(tmp_path: Path) -> None:
    path = write(tmp_path, "tick_hz = 5")
    settings = load(path, {"tick_hz": "20"}, {"PRISMTOP_TICK_HZ": "10"})
    assert (settings.tick_hz, settings.origins["tick_hz"]) == (20.0, "flag")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "tick_hz = 5")
    settings = load(path, env={"PRISMTOP_TICK_HZ": "10"})
    assert (settings.tick_hz, settings.origins["tick_hz"]) == (10.0, "env PRISMTOP_TICK_HZ")


def test_the_origin_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'theme = "light"')
    assert load(path).origins["theme"] == f"file {path}"


def test_an_empty_variable_is_as_good_as_unset(tmp_path: Path) -> None:
    assert load(write(tmp_path, ""), env={"PRISMTOP_THEME": ""}).origins["theme"] == "default"


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("off", False), ("FALSE", False)])
def test_environment_words_become_booleans(tmp_path: Path, text: str, value: bool) -> None:
    assert load(write(tmp_path, ""), env={"PRISMTOP_METRICS": text}).metrics is value


def test_an_integer_in_the_file_is_fine_for_a_float(tmp_path: Path) -> None:
    assert load(write(tmp_path, "window_s = 30")).window_s == 30.0


def test_the_screen_is_redrawn_once_a_second_over_ssh(tmp_path: Path) -> None:
    settings = load(write(tmp_path, ""), env={"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"})
    assert (settings.ui_hz, settings.origins["ui_hz"]) == (1.0, "default over SSH")


def test_broken_toml_is_refused_with_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path, "tick_hz = 5\ntheme = \n")
    message = refusal(path).message
    assert str(path) in message
    assert "line 2" in message


def test_a_wrong_type_is_refused_with_file_line_key_and_what_was_expected(tmp_path: Path) -> None:
    path = write(tmp_path, '# mine\ntick_hz = "fast"\n')
    assert refusal(path).message == f"{path}:2: tick_hz must be a number from 1 to 100, not 'fast'."


def test_a_text_is_no_number_in_the_file_even_if_it_looks_like_one(tmp_path: Path) -> None:
    assert "must be a number" in refusal(write(tmp_path, 'tick_hz = "25"')).message


def test_a_number_is_no_boolean_in_the_file(tmp_path: Path) -> None:
    assert "must be true or false, not 1" in refusal(write(tmp_path, "metrics = 1")).message


@pytest.mark.parametrize("value", ["0", "1e9", "nan", "inf", "-3"])
def test_a_number_out_of_range_is_refused(tmp_path: Path, value: str) -> None:
    assert (
        "tick_hz must be a number from 1 to 100" in refusal(write(tmp_path, ""), {"tick_hz": value}).message
    )


def test_a_fraction_is_no_whole_number(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, ""), env={"PRISMTOP_HISTORY": "99.5"}).message
    assert message.startswith("environment variable PRISMTOP_HISTORY: history must be a whole number")


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "\ntick-hz = 5")
    assert refusal(path).message == f"{path}:2: there is no setting tick-hz; did you mean tick_hz?"


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "[screen]\nascii = true")
    assert refusal(path).message.startswith(f"{path}:1: there is no setting screen")


def test_escape_sequences_of_the_file_do_not_reach_the_message(tmp_path: Path) -> None:
    assert "\x1b" not in refusal(write(tmp_path, '"\\u001b[2J" = 1')).message


def test_a_config_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path).message


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b'theme = "\xff"')
    assert "not UTF-8" in refusal(path).message


def test_a_named_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_settings({}, {"PRISMTOP_CONFIG": str(tmp_path / "none.toml")})


def test_the_default_file_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path({}) == tmp_path / "prismtop" / "config.toml"
    assert load_settings({}, {}).origins["theme"] == "default"


def test_variables_that_name_no_setting_are_found() -> None:
    env = {"PRISMTOP_THEM": "x", "PRISMTOP_THEME": "y", "PRISMTOP_CONFIG": "z", "PATH": "p"}
    assert unknown_variables(env) == ("PRISMTOP_THEM",)


def test_every_setting_is_documented_in_one_sentence_and_its_default_is_accepted(tmp_path: Path) -> None:
    for info in setting_infos():
        assert info.doc.endswith("."), info.name
        default = getattr(Settings(), info.name)
        assert getattr(load(write(tmp_path, ""), {info.name: default}), info.name) == default
