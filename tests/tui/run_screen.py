"""The screen on a real terminal over a synthetic session: `run_screen.py plain|crash|hostile`."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from prismtop.errors import PrismtopError
from prismtop.model import Frame
from prismtop.tui.app import run_app
from tests.tui.hostile import HOSTILE, hostile_group
from tests.tui.synthetic import SyntheticSession


class Crashing(SyntheticSession):
    """Fails in its tenth tick, with text of the target in the message."""

    def tick(self) -> Frame:
        if self.ticks == 9:
            raise ValueError(f"no such ring{HOSTILE}")
        return super().tick()


def main(what: str) -> int:
    session = {
        "plain": SyntheticSession,
        "crash": Crashing,
        "hostile": lambda: SyntheticSession(what=hostile_group()),
    }[what]()
    if what == "hostile":
        session.warnings = (HOSTILE,)
    try:
        code = run_app(session, settings=SimpleNamespace(ui_hz=10.0, tick_hz=25.0, theme="prismtop"))
    except PrismtopError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    ticks = session.ticks
    print(f"left with {code}, ticking {'on' if session.ticks != ticks else 'ended'}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
