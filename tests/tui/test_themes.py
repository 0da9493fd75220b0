"""Themes: those that are shipped, and those that a user writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.color import ColorType
from rich.style import Style

from prismtop.errors import UsageError
from prismtop.tui.look import ROLES, UNICODE
from prismtop.tui.rendition import shortened
from prismtop.tui.themes import DEFAULT, ThemeFile, choose, load_theme, load_themes, theme_dirs
from tests.tui.harness import screen_text, still

SHIPPED, PROBLEMS = load_themes(theme_dirs(None))


def test_every_shipped_theme_can_be_read() -> None:
    assert PROBLEMS == ()
    assert len(SHIPPED) >= 8
    assert DEFAULT in SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
async def test_the_screen_draws_in_every_theme(name: str) -> None:
    async with still(theme=name) as (app, _pilot):
        assert "batch/s" in screen_text(app)


def ratio(style: Style) -> float:
    """WCAG 2.1 contrast ratio of a style's colours."""

    def luminance(colour: object) -> float:
        parts = [value / 255 for value in colour.get_truecolor()]  # type: ignore[attr-defined]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(style.color), luminance(style.bgcolor)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def coloured() -> list[ThemeFile]:
    return [theme for theme in SHIPPED.values() if not theme.textual.ansi]


@pytest.mark.parametrize("theme", coloured(), ids=lambda theme: theme.name)
def test_text_can_be_read(theme: ThemeFile) -> None:
    least = 7.0 if theme.name == "high-contrast" else 4.5
    for role in ("base", "strong", "ok", "warn", "error", "title", "badge", "key", "keylabel", "column"):
        assert ratio(theme.styles[role]) >= least, role
    assert ratio(theme.styles["muted"]) >= 3.0


@pytest.mark.parametrize("theme", coloured(), ids=lambda theme: theme.name)
def test_the_selected_row_can_be_read(theme: ThemeFile) -> None:
    look = theme.look(UNICODE)
    for role in ("base", "mode.decode", "mode.prefill"):
        assert ratio(look.style(f"{role}+cursor")) >= 3.0, role


def test_the_default_theme_uses_colours_that_are_short_on_the_wire() -> None:
    for role, style in SHIPPED[DEFAULT].styles.items():
        for colour in (style.color, style.bgcolor):
            assert colour is not None
            if colour.type is ColorType.TRUECOLOR:
                codes = "38;2;" + ";".join(str(part) for part in colour.get_truecolor())
                assert shortened(codes) != codes, role


def test_a_user_theme_overrides_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    text = (theme_dirs(None)[0] / "nord.toml").read_text()
    (tmp_path / "themes").mkdir()
    (tmp_path / "themes" / "mine.toml").write_text(text.replace('title = "Nord"', 'title = "Mine"'))
    themes, problems = load_themes(theme_dirs(tmp_path))
    assert problems == ()
    assert themes["nord"].title == "Mine"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('launch = "#88c0d0"', 'launch = "blue"'), "stages.launch must be colours"),
        (('launch = "#88c0d0"', ""), "stages.launch must be a style"),
        (('primary = "#88c0d0"', 'primary = "88c0d0"'), "colors.primary must be a colour"),
        (('name = "nord"', 'name = "No rd"'), "name must be lower-case letters"),
        (("dark = true", "dark = 1"), "dark must be true or false"),
        (("[modes]", "[moods]"), "[modes] must be a table"),
        (("[modes]", "[modes"), "not a readable theme"),
    ],
)
def test_a_broken_theme_is_refused_with_file_and_key(
    tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    text = (theme_dirs(None)[0] / "nord.toml").read_text()
    assert change[0] in text
    path = tmp_path / "broken.toml"
    path.write_text(text.replace(*change))
    with pytest.raises(UsageError) as caught:
        load_theme(path)
    assert complaint in str(caught.value)
    assert "broken.toml" in str(caught.value)


async def test_a_broken_user_theme_is_a_warning_and_not_the_end(tmp_path: Path) -> None:
    (tmp_path / "themes").mkdir()
    (tmp_path / "themes" / "broken.toml").write_text("name = 3")
    async with still(config_dir=tmp_path) as (app, _pilot):
        assert "broken.toml: name must be" in screen_text(app).replace("\n", "") or app.view.warnings


def test_an_unknown_theme_names_those_that_exist() -> None:
    with pytest.raises(UsageError, match="gruvbox"):
        choose(SHIPPED, "solarised", no_colour=False)


def test_no_color_takes_the_theme_without_colours() -> None:
    assert choose(SHIPPED, "nord", no_colour=True).name == "monochrome"


def test_every_theme_has_every_role() -> None:
    for theme in SHIPPED.values():
        assert set(theme.styles) == set(ROLES)
