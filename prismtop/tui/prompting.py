"""Search, filter and go to: what is typed at the lower edge of the list."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events

from prismtop.errors import PrismtopError
from prismtop.tui.filter import Filter, compile_filter
from prismtop.tui.goto import Place, parse_place, row_of
from prismtop.tui.keys import PROMPT
from prismtop.tui.look import cut
from prismtop.tui.panels.footer import Footer
from prismtop.tui.screens import PanelScreen


@dataclass
class Prompt:
    """What is being typed at the lower edge.

    Attributes:
        kind: `search`, `filter` or `goto`.
        text: so far.
        problem: why it cannot be taken as it is.
        before: filter when it was opened.
        cursor: row when it was opened.
        held: whether the list stood still when it was opened.
    """

    kind: str
    text: str
    before: Filter | None
    cursor: int
    held: bool
    problem: str = ""


class PromptScreen(PanelScreen):
    """A screen at whose lower edge can be typed."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt: Prompt | None = None
        self.shown: dict[str, int] = {}

    @property
    def where(self) -> str:
        """The prompt has keys of its own."""
        return PROMPT if self.prompt is not None and self.overlay is None else super().where

    def footer_now(self) -> Footer:
        """The keys, or what is being typed."""
        made = super().footer_now()
        return made if self.prompt is None or self.overlay is not None else self._prompt_line(self.prompt)

    def put_footer(self) -> None:
        """Nothing when it is hidden."""
        if self.shown.get("footer", 1):
            super().put_footer()

    def _prompt_line(self, prompt: Prompt) -> Footer:
        view, width = self.owner.view, self.size.width
        hints = {
            "filter": f"{view.total_rows} rows  enter take  esc leave  tab search",
            "search": "enter take  esc leave  F3 next  tab filter",
            "goto": "batch number, 14:32:07 or 50%  enter go  esc leave",
        }
        label = {"goto": "go to"}.get(prompt.kind, prompt.kind)
        head = f" {label}: "
        hint, role = (prompt.problem, "error") if prompt.problem else (hints[prompt.kind], "keylabel")
        room = max(4, width - len(head) - 2)
        text = prompt.text[-room:] + "_"
        left = width - len(head) - len(text)
        hint = cut(f"  {hint} ", max(0, left))
        return Footer(((head, "key"), (text, "strong"), (hint.rjust(max(0, left)), role)), ())

    def _open_prompt(self, kind: str, text: str = "") -> None:
        view = self.owner.view
        self.prompt = Prompt(kind, text, view.filter, view.cursor, view.held is not None)
        self.redraw()

    def text_typed(self, event: events.Key) -> None:
        """Letters of the prompt."""
        prompt = self.prompt
        if prompt is None:
            return
        if event.key == "backspace":
            prompt.text = prompt.text[:-1]
        elif event.is_printable and event.character:
            prompt.text += event.character
        else:
            return
        event.stop()
        self._typed(prompt)

    def on_paste(self, event: events.Paste) -> None:
        """The first line of what was pasted, without control characters."""
        if self.prompt is not None:
            first = event.text.splitlines()[0] if event.text else ""
            self.prompt.text += "".join(letter for letter in first if letter.isprintable())[:200]
            self._typed(self.prompt)

    def _typed(self, prompt: Prompt) -> None:
        """Show at once what it will do; what cannot be understood yet changes nothing."""
        view = self.owner.view
        prompt.problem = ""
        try:
            if prompt.kind == "filter":
                view.set_filter(compile_filter(prompt.text))
            elif prompt.kind == "search":
                found = compile_filter(prompt.text)
                if found is not None:
                    view.cursor = min(prompt.cursor, max(0, view.total_rows - 1))
                    if not view.find(found.matches, here=True):
                        prompt.problem = "not found"
        except PrismtopError as error:
            prompt.problem = error.message
        self.redraw()

    def action_prompt_take(self) -> None:
        """Do what was typed."""
        prompt, view = self.prompt, self.owner.view
        if prompt is None:
            return
        try:
            if prompt.kind == "goto":
                self._go(prompt.text)
            elif prompt.kind == "filter":
                view.set_filter(compile_filter(prompt.text))
            else:
                view.search = compile_filter(prompt.text)
        except PrismtopError as error:
            prompt.problem = str(error)
            self.redraw()
            return
        self.prompt = None
        self.redraw()

    def action_prompt_leave(self) -> None:
        """As before."""
        prompt, view = self.prompt, self.owner.view
        self.prompt = None
        if prompt is not None and prompt.kind == "filter":
            view.set_filter(prompt.before)
        elif prompt is not None and prompt.kind == "search":
            if prompt.held:
                view.select(prompt.cursor)
            else:
                view.follow()
        self.redraw()

    def action_prompt_switch(self) -> None:
        """The same text as a filter, or as a search."""
        prompt = self.prompt
        if prompt is None or prompt.kind == "goto":
            return
        text, kind = prompt.text, "search" if prompt.kind == "filter" else "filter"
        self.action_prompt_leave()
        self._open_prompt(kind, text)
        if self.prompt is not None:
            self._typed(self.prompt)

    def action_prompt_empty(self) -> None:
        """An empty line."""
        if self.prompt is not None:
            self.prompt.text = ""
            self._typed(self.prompt)

    def action_prompt_find(self, step: int) -> None:
        """The next or previous match of what is being searched."""
        prompt = self.prompt
        if prompt is None or prompt.kind != "search":
            return
        try:
            found = compile_filter(prompt.text)
        except PrismtopError:
            return
        if found is not None and self.owner.view.find(found.matches, step):
            prompt.cursor = self.owner.view.cursor
        self.redraw()

    def _go(self, text: str) -> None:
        view, replay = self.owner.view, self.owner.controls.replay
        frame = view.frame
        if frame is None or not text.strip():
            return
        near = frame.replay.position_ns if frame.replay is not None else frame.time_ns
        place = parse_place(text, frame.clock, near)
        if replay is not None and place.fraction is not None:
            replay.seek_fraction(place.fraction)
        elif replay is not None and place.time_ns is not None:
            replay.seek_ns(place.time_ns)
        else:
            self._go_to_row(place)

    def _go_to_row(self, place: Place) -> None:
        view = self.owner.view
        row = row_of(place, view.rows)
        if row is not None:
            view.select(row)
        elif not view.total_rows:
            self.owner.say("the list is empty")
        else:
            seqs = [batch.seq for batch in view.rows]
            self.owner.say(f"batch {place.seq} is not in the list, which holds {min(seqs)} to {max(seqs)}")

    def action_filter(self) -> None:
        """Which rows are shown."""
        self._open_prompt("filter", self.owner.view.filter.text if self.owner.view.filter else "")

    def action_search(self) -> None:
        """Find a row; where rows are marked that match, the next of them."""
        search = self.owner.view.search
        if search is None:
            self._open_prompt("search")
            return
        if not self.owner.view.find(search.matches):
            self.owner.say(f"no row of the list matches {search.text}")
        self.redraw()

    def action_goto(self) -> None:
        """Go to a batch, a time or a part."""
        self._open_prompt("goto")
