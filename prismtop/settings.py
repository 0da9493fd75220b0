"""Every setting of prismtop: its default, what it means, and where its value came from.

A value comes from the command line, else from the environment (`PRISMTOP_TICK_HZ`), else from `config.toml`
in the config directory of the platform, else from the default below. A wrong value is refused in one
sentence, never replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from prismtop.errors import UsageError
from prismtop.safe_text import safe_text

ENV_PREFIX = "PRISMTOP_"
CONFIG_VARIABLE = "PRISMTOP_CONFIG"
"""Names another config file than the one in the config directory; not a setting itself."""
PRODUCTION_VARIABLE = "PRISMTOP_PRODUCTION"
"""Says that users are served here: `prismtop anomaly` refuses then. No setting: no flag may undo it."""

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def _setting(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of `Settings`: default, one-line documentation, and what is accepted: for numbers the range,
    for texts the choices (none: any text).
    """
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """The settings of one run.

    `origins` says, per name, where the value came from. `keys` is the file's `[keys]` table: action -> keys.
    """

    tick_hz: float = _setting(
        15.0, "How often finished batches are collected from the target, per second.", low=1, high=100
    )
    ui_hz: float = _setting(
        2.0, "How often the screen is redrawn, per second; 1 over SSH unless it is set.", low=0.1, high=30
    )
    window_s: float = _setting(
        10.0, "Seconds over which rates and percentiles are computed.", low=1, high=3600
    )
    history: int = _setting(512, "Batches kept for the screen.", low=16, high=100_000)
    probe_budget: float = _setting(
        0.005, "Share of a batch that the probe may cost before it drops hooks.", low=0.0001, high=0.05
    )
    lease_s: float = _setting(
        10.0, "Seconds without a sign of life from us after which the probe removes itself.", low=2, high=600
    )
    attach_timeout_s: float = _setting(
        3.0, "Seconds to wait for a probe to start before an idle target counts as armed.", low=0.2, high=60
    )
    allow_gdb: bool = _setting(
        False, "Use gdb without asking when no better way in exists; it pauses the target for 0.2 to 4 s."
    )
    external_only: bool = _setting(
        False, "Never put anything into the target: sampled stacks, /metrics and procfs only."
    )
    metrics: bool = _setting(True, "Read the engine's own /metrics on a loopback port when it has one.")
    metrics_interval_s: float = _setting(1.0, "Seconds between two reads of /metrics.", low=0.2, high=60)
    counters: bool = _setting(
        False, "Sample host and device counters in `watch` too; the screen and `export` always do."
    )
    counters_hz: float = _setting(1.0, "How often counters are read, per second.", low=0.1, high=20)
    raise_priority: bool = _setting(
        True,
        "Run at nice -5 where Linux leaves prismtop waiting for a processor; needs CAP_SYS_NICE.",
    )
    theme: str = _setting("prismtop", "Colour theme of the screen.")
    ascii: bool = _setting(False, "Draw the screen and tables with ASCII characters only.")
    no_mouse: bool = _setting(False, "Leave the mouse to the terminal, so that text can be selected.")
    record_dir: str = _setting(
        "auto", "Directory of recordings without a name; auto is the state directory of the platform."
    )
    record_past_s: float = _setting(
        180.0, "How many seconds back a recording reaches that is begun on the screen.", low=0, high=3600
    )
    record_max_mb: int = _setting(
        2048, "Size of all files of one recording, in MB; the oldest ones go.", low=1, high=1_000_000
    )
    record_on_alert: bool = _setting(
        True, "Save a recording of every alert, with the minute before it; the latest 20 are kept."
    )
    readonly: bool = _setting(
        False, "Refuse every key that would change the engine beyond the Sentinel probe (DeepDive)."
    )
    deepdive_batches: int = _setting(
        50, "Batches that a DeepDive begun on the screen or by an alert captures.", low=1, high=1000
    )
    deepdive_max_s: float = _setting(
        10.0, "Seconds after which such a DeepDive ends, however few batches came.", low=0.5, high=60
    )
    deepdive_on_alert: str = _setting(
        "off",
        "Severity from which an alert begins a DeepDive by itself; in production only from flag or "
        "environment.",
        choices=("off", "warning", "critical"),
    )
    deepdive_cooldown_min: float = _setting(
        60.0, "Minutes between two DeepDives of one engine that alerts begin.", low=1, high=10_080
    )
    panels: str = _setting(
        "auto",
        'Panels always (+name) or never (-name) shown, as in "-stages +ranks"; others as there is room.',
    )
    export_dir: str = _setting(".", "Where the screen's `e` writes its files.")
    sensitivity: str = _setting(
        "normal",
        "How readily alerts open: set for about 0.1, 0.6 and 6 false alerts an hour.",
        choices=("quiet", "normal", "sensitive"),
    )
    slo_ttft_ms: float = _setting(0.0, "Target for the time to first token; 0: no target.", low=0, high=1e7)
    slo_tpot_ms: float = _setting(
        0.0, "Target for the time per output token after the first; 0: no target.", low=0, high=1e7
    )
    slo_e2e_ms: float = _setting(0.0, "Target for a whole request; 0: no target.", low=0, high=1e8)
    slo_target: float = _setting(
        0.99,
        "Share of requests that must meet all targets; the rest is the error budget.",
        low=0,
        high=0.99999,
    )
    on_alert: str = _setting(
        "", "Command to run when an alert opens or closes, without a shell; the alert is JSON on its stdin."
    )
    alert_webhook: str = _setting("", "http(s) URL to which alerts are posted as JSON.")
    bell: bool = _setting(False, "Ring the terminal's bell when an alert opens.")
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SettingInfo:
    """One setting's name, type, documentation and what is accepted: a range (None: no bound) or choices, and
    whether a text may be empty.
    """

    name: str
    kind: type
    doc: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.kind is bool:
            return "true or false"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind is str:
            return "a text"
        noun = "a whole number" if self.kind is int else "a number"
        return f"{noun} from {self.low:g} to {self.high:g}"


def setting_infos() -> tuple[SettingInfo, ...]:
    """Every setting, in the order in which it is declared."""
    return tuple(
        SettingInfo(
            f.name,
            type(f.default),
            f.metadata["doc"],
            f.metadata["low"],
            f.metadata["high"],
            f.metadata["choices"],
            f.default == "",
        )
        for f in fields(Settings)
        if f.name not in ("origins", "keys")
    )


def config_dir() -> Path:
    """The directory with `config.toml` and, below `engines/`, the user's engine profiles."""
    import platformdirs

    return Path(platformdirs.user_config_dir("prismtop", appauthor=False))


def config_path(env: Mapping[str, str] = os.environ) -> Path:
    """The config file of this run; it need not exist."""
    named = env.get(CONFIG_VARIABLE, "")
    return Path(named).expanduser() if named else config_dir() / "config.toml"


def load_settings(
    flags: Mapping[str, object], env: Mapping[str, str] = os.environ, path: Path | None = None
) -> Settings:
    """Merge flags over environment over file over defaults.

    Args:
        flags: values from the command line by setting name; texts are converted.
        env: the environment.
        path: the config file; by default `config_path(env)`.

    Raises:
        UsageError: a file that cannot be read or is no TOML, an unknown name, or a value of the wrong kind or
            out of range. The sentence names the origin, the key and what was expected.
    """
    infos = {info.name: info for info in setting_infos()}
    values: dict[str, Any] = {}
    origins = dict.fromkeys(infos, "default")
    if env.get("SSH_CONNECTION"):
        values["ui_hz"], origins["ui_hz"] = 1.0, "default over SSH"
    file = config_path(env) if path is None else path
    required = path is not None or bool(env.get(CONFIG_VARIABLE))
    text, table = _read_file(file, required=required)
    if "keys" in table:
        where = f"{file}{_line_of('keys', text)}"
        values["keys"] = _keys(table.pop("keys"), where)
    for key, value in table.items():
        where = f"{file}{_line_of(key, text)}"
        info = _known(key, infos, where)
        values[key], origins[key] = _checked(info, value, where, textual=False), f"file {file}"
    for name, info in infos.items():
        variable = ENV_PREFIX + name.upper()
        if env.get(variable, "") != "":
            values[name] = _checked(info, env[variable], f"environment variable {variable}", textual=True)
            origins[name] = f"env {variable}"
    for key, value in flags.items():
        info = _known(key, infos, "--set")
        values[key], origins[key] = _checked(info, value, "the command line", textual=True), "flag"
    return Settings(**values, origins=origins)


def _keys(table: object, where: str) -> dict[str, tuple[str, ...]]:
    """The `[keys]` table: action = "key" or ["key", "key"]. Which actions exist is known to the screen."""
    made: dict[str, tuple[str, ...]] = {}
    for action, keys in table.items() if isinstance(table, dict) else [("", None)]:
        found = [keys] if isinstance(keys, str) else keys
        if not isinstance(found, list) or not all(isinstance(key, str) and key for key in found):
            raise UsageError(
                f"{safe_text(where)}: keys {safe_text(action, 40)}: expected a key or a list of keys.",
                fix='For example, under [keys]: record = "ctrl-r".',
            )
        made[action] = tuple(found)
    return made


def unknown_variables(env: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """PRISMTOP_ variables that name no setting: misspellings, most likely."""
    known = {ENV_PREFIX + info.name.upper() for info in setting_infos()} | {
        CONFIG_VARIABLE,
        PRODUCTION_VARIABLE,
    }
    return tuple(sorted(name for name in env if name.startswith(ENV_PREFIX) and name not in known))


def _read_file(file: Path, *, required: bool) -> tuple[str, dict[str, object]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise UsageError(
                f"the config file {safe_text(str(file))} does not exist.",
                fix=f"Create it or unset {CONFIG_VARIABLE}.",
            ) from None
        return "", {}
    except UnicodeDecodeError:
        raise UsageError(f"{safe_text(str(file))} is not UTF-8 text.", fix="Save it as UTF-8.") from None
    except OSError as error:
        raise UsageError(
            f"the config file {safe_text(str(file))} cannot be read: {error.strerror}.",
            fix="Make it a readable file or move it away.",
        ) from None
    from prismtop.toml_text import TOMLDecodeError, loads

    try:
        return text, loads(text)
    except TOMLDecodeError as error:
        raise UsageError(
            f"{safe_text(str(file))} is not valid TOML: {safe_text(str(error))}.", fix="Correct that line."
        ) from None


def _line_of(key: str, text: str) -> str:
    """`:7` for the line that sets `key` or opens the table of that name, empty when it is not found."""
    pattern = re.compile(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return f":{number}"
    return ""


def _known(key: str, infos: Mapping[str, SettingInfo], where: str) -> SettingInfo:
    if key in infos:
        return infos[key]
    import difflib

    near = difflib.get_close_matches(key.lower().replace("-", "_"), infos, n=1)
    meant = f"; did you mean {near[0]}?" if near else "."
    raise UsageError(
        f"{safe_text(where)}: there is no setting {safe_text(key, 60)}{meant}",
        fix="`prismtop config show` lists all of them.",
    )


def _checked(info: SettingInfo, value: object, where: str, *, textual: bool) -> Any:
    """`value` as the setting's type; texts are converted only where the origin has nothing but text."""
    made: Any = value
    if textual and isinstance(value, str) and info.kind is not str:
        made = _from_text(info.kind, value)
    if info.kind is float and isinstance(made, int) and not isinstance(made, bool):
        made = float(made)
    fits = type(made) is info.kind
    if fits and info.low is not None and info.high is not None:
        fits = info.low <= made <= info.high  # a NaN is in no range
    if fits and info.choices:
        fits = made in info.choices
    if not fits or (info.kind is str and not made.strip() and not info.may_be_empty):
        raise UsageError(
            f"{safe_text(where)}: {info.name} must be {info.expected}, not {safe_text(repr(value), 60)}.",
            fix="Correct or remove it.",
        )
    return made


def _from_text(kind: type, text: str) -> object:
    if kind is bool:
        word = text.strip().lower()
        return True if word in _TRUE else False if word in _FALSE else text
    try:
        number: object = kind(text)
    except ValueError:
        return text
    return number
