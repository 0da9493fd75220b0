"""Files that commands write for their user alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from prismtop.commands.private_file import open_private
from prismtop.errors import UnavailableError


def write(path: Path, text: str, *, append: bool = False) -> str:
    with open_private(path, append=append) as file:
        file.write(text)
    return path.read_text()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    write(tmp_path / "labels", "one")
    assert (tmp_path / "labels").stat().st_mode & 0o777 == 0o600


def test_what_was_there_goes(tmp_path: Path) -> None:
    write(tmp_path / "labels", "one")
    assert write(tmp_path / "labels", "two") == "two"


def test_what_was_there_stays_where_it_is_appended_to(tmp_path: Path) -> None:
    write(tmp_path / "labels", "one")
    assert write(tmp_path / "labels", "two", append=True) == "onetwo"


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "other")
    with pytest.raises(UnavailableError, match="link cannot be written"):
        open_private(tmp_path / "link")
    assert not (tmp_path / "other").exists()
