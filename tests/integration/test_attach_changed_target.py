"""Functions that are not there, that others wrapped, or whose module was loaded anew."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from prismtop.model import Batch
from prismtop.probe import agent
from prismtop.sources.live import AttachOptions, attach
from tests.integration.engines import (
    FEW_MINORS,
    PROFILE,
    attached,
    batches_from,
    group_for,
    open_session,
    prismtop,
    profiles_of,
    scripted,
    ticks_until,
    watching,
    write_profile,
)
from tests.integration.test_attach_cycle import expected_afterwards

WRAPPED = [minor for minor in FEW_MINORS if minor < "3.12" and minor != "3.9"] + ["3.9"]


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_hooks_that_do_not_resolve_are_listed_with_the_reason(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine, attached(engine) as session:
        _, frame = ticks_until(session, lambda _, frame: all(h.mechanism or h.reason for h in frame.hooks))
        status = {hook.hook: (hook.mechanism, hook.reason) for hook in frame.hooks}
    assert status["gone"] == ("", "no Runner.renamed_in_the_next_release in engine_parts")
    assert status["unloaded"] == ("", "module not loaded")
    assert status["hidden"][0] == ""
    assert "hidden by a decorator" in status["hidden"][1]
    installed = {name for name, (mechanism, _) in status.items() if mechanism}
    assert installed == {"schedule", "execute", "prepare", "sample", "update"}


def test_an_engine_whose_batches_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine:
        write_profile(engine.home, PROFILE.replace("Scheduler.schedule", "Scheduler.plan_ahead"))
        before = engine.state()
        done = prismtop("watch", "--pid", str(engine.pid), "--duration", "1.5", env=engine.environment)
        assert "no hook opens a batch (no Scheduler.plan_ahead in engine_parts)" in done.stderr
        assert "Traceback" not in done.stderr
        assert engine.state() == expected_afterwards(before)


NO_END = PROFILE.replace("Scheduler.update", "Scheduler.update_from_output")


@pytest.mark.parametrize("minor", FEW_MINORS)
def test_an_engine_whose_batches_have_no_end_reads_the_mailbox_all_the_same(
    minor: str, tmp_path: Path
) -> None:
    with scripted(tmp_path, minor) as engine:
        write_profile(engine.home, NO_END)
        before = engine.state()
        source = attach(group_for(engine), profiles_of(engine)["scripted"], AttachOptions(metrics=False))
        try:
            made: list[Batch] = []
            end = time.monotonic() + 10
            while len(made) < 100:
                assert time.monotonic() < end
                made += source.poll().batches
            (link,) = source.links
            ring = link.ring
            assert ring is not None
            link.ask_detach()
            while ring.state == agent.RUNNING:
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            source.close()
        assert all(batch.stage_ns()["schedule"] for batch in made)
        assert engine.state() == expected_afterwards(before)


def test_where_batches_neither_begin_nor_end_no_hook_stays_in(tmp_path: Path) -> None:
    with scripted(tmp_path) as engine:
        write_profile(engine.home, NO_END.replace("Scheduler.schedule", "Scheduler.plan_ahead"))
        before = engine.state()
        with attached(engine) as session:
            _, frame = ticks_until(session, lambda _, frame: all(h.reason for h in frame.hooks))
            assert engine.state()["ids"] == before["ids"]
        reasons = {hook.hook: hook.reason for hook in frame.hooks}
        assert reasons["execute"].startswith("left out: ")
        assert engine.state() == expected_afterwards(before)


@pytest.mark.parametrize("minor", ["3.9", "3.11"])
def test_a_function_that_someone_wrapped_again_is_left_as_a_pass_through(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        session = open_session(engine)
        batches_from(session, 5)
        engine.ask("rewrap schedule")
        batches_from(session, 50)
        notes = session.close()
        assert len(notes) == 1
        assert "Scheduler.schedule" in notes[0]
        assert "wrapped" in notes[0]
        assert engine.works()
        after = engine.state()
        changed = {name for name, ids in after["ids"].items() if ids != before["ids"][name]}
        assert changed == {"Scheduler.schedule"}
        assert {**after, "ids": None} == {**expected_afterwards(before), "ids": None}
        with attached(engine) as again:
            batches_from(again, 20)


@pytest.mark.parametrize("minor", ["3.12", "3.14"])
def test_a_function_that_someone_wraps_is_still_observed_by_monitoring(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        session = open_session(engine)
        batches_from(session, 5)
        engine.ask("rewrap schedule")
        batches_from(session, 50)
        assert session.close() == ()
        assert engine.works()


@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.12", "3.14"])
def test_a_module_that_was_loaded_anew_under_living_objects_is_restored(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        with attached(engine) as session:
            batches_from(session, 5)
            engine.ask("reload keep")
            batches_from(session, 20)
            session.close()
        assert engine.state() == expected_afterwards(before)
        assert engine.works()


@pytest.mark.parametrize("minor", ["3.9", "3.11", "3.12", "3.14"])
def test_a_module_that_was_loaded_anew_with_new_objects_is_one_sentence(minor: str, tmp_path: Path) -> None:
    with scripted(tmp_path, minor) as engine:
        before = engine.state()
        with watching(engine.pid, "--duration", "4", env=engine.environment) as watch:
            watch.until("batch")
            engine.ask("reload")
            code, err = watch.finish()
        assert code == 0
        assert engine.works()
        assert engine.state() == expected_afterwards(before)
        assert len(err.strip().splitlines()) == 1, err
        assert "loaded again" in err
        with watching(engine.pid, "-n", "20", env=engine.environment) as watch:
            assert watch.finish()[0] == 0
