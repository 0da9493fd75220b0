"""The profiles in the package, and how one is chosen for a version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prismtop.errors import UsageError
from prismtop.model.batch import STAGES
from prismtop.targets import profiles as profiles_module
from prismtop.targets.profile import Profile
from prismtop.targets.profiles import (
    hooks_for,
    load_profile_file,
    load_profiles,
    version_matches,
    version_note,
)

PACKAGED = sorted((Path(profiles_module.__file__).parent / "engines").glob("*.toml"))
ENGINES = {
    "demo", "diffusers", "llama-cpp-python", "lmdeploy", "sglang", "sglang-diffusion", "tensorrt-llm", "tgi",
    "transformers", "vllm", "xdit",
}  # fmt: skip


def names(profile: Profile, role: str, version: str | None) -> list[str]:
    return [hook.name for hook in hooks_for(profile, role, version)]


def test_every_engine_of_the_map_has_a_profile() -> None:
    assert set(load_profiles()) == ENGINES


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_a_packaged_profile_passes_the_check_of_a_users_file(path: Path) -> None:
    strict = load_profile_file(path)
    assert strict.name == path.stem
    trusted = load_profiles()[strict.name]
    for checked, lazy in zip(strict.hooks, trusted.hooks, strict=True):
        assert dict(checked.entry) == dict(lazy.entry)
        assert dict(checked.exit) == dict(lazy.exit)


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_a_packaged_profile_measures_its_batches(path: Path) -> None:
    profile = load_profile_file(path)
    assert profile.batch is not None
    anchor = next(role for role in profile.roles if role.anchor)
    assert anchor.probed
    assert profile.batch.role == anchor.name
    assert any(hook.boundary for hook in profile.hooks)
    assert {hook.stage for hook in profile.hooks} <= {*STAGES, ""}
    opened = {
        hook.name for hook in profile.hooks if hook.name in (*profile.batch.open, *profile.batch.settle)
    }
    assert all(hook.priority == 1 for hook in profile.hooks if hook.name in opened)


WORKLOAD = {"batch_size", "tokens", "prefill_tokens", "decode_tokens", "context_tokens"}


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_a_hook_that_reads_the_workload_is_never_dropped(path: Path) -> None:
    """Without it a batch cannot be held against what its workload should cost."""
    hooks = load_profile_file(path).hooks
    assert {h.name for h in hooks if WORKLOAD & {*h.entry, *h.exit} and h.priority > 1} == set()


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_a_hook_without_a_stage_carries_values_or_events(path: Path) -> None:
    for hook in load_profile_file(path).hooks:
        assert hook.stage or hook.entry or hook.exit or hook.events, hook.name


def test_the_most_specific_engine_is_tried_first_and_diffusers_last() -> None:
    order = list(load_profiles())
    assert order.index("sglang-diffusion") < order.index("sglang")
    assert order[-1] == "diffusers"


def test_a_hook_of_another_version_is_left_out() -> None:
    vllm = load_profiles()["vllm"]
    assert "mr2_full_graph" not in names(vllm, "worker", "0.17.1")
    assert "mr2_full_graph" in names(vllm, "worker", "0.18.1")


@pytest.mark.parametrize(
    "version", ["0.8.5", "0.9.2", "0.11.0", "0.12.0", "0.32.0+cpu", "0.33.1.dev7+g1a2b", None]
)
def test_each_version_of_vllm_has_one_schedule_hook(version: str | None) -> None:
    assert names(load_profiles()["vllm"], "engine_core", version).count("schedule") == 1


def test_the_list_of_cached_requests_of_old_vllm_is_read_as_a_list() -> None:
    old = hooks_for(load_profiles()["vllm"], "engine_core", "0.8.5")[0]
    assert "for r in _cap(ret.scheduled_cached_reqs)" in old.exit["context_tokens"].source


@pytest.mark.parametrize("version", [None, "unknown", "main-1234"])
def test_an_unknown_version_keeps_every_hook_but_one_variant_for_one_function(version: str | None) -> None:
    sglang = load_profiles()["sglang"]
    kept = hooks_for(sglang, "scheduler", version)
    assert len({(hook.module, hook.qualname) for hook in kept}) == len(kept)
    assert [hook.module for hook in kept if hook.name == "recv"] == [
        "sglang.srt.managers.scheduler_components.request_receiver",
        "sglang.srt.managers.scheduler",
    ]
    assert next(hook for hook in kept if hook.name == "schedule").versions == ">=0.5.16"


def test_a_release_newer_than_the_newest_verified_keeps_hooks_without_an_upper_bound(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text(
        'schema = 1\nname = "e"\ntitle = "E"\nverified = ["1.0", "2.0"]\n'
        '[[role]]\nname = "r"\ntitle_regex = "e"\nanchor = true\n'
        '[[hook]]\nname = "a"\nmodule = "e"\nqualname = "a"\nversions = ">=1"\n'
        '[[hook]]\nname = "b"\nmodule = "e"\nqualname = "b"\nversions = ">=1,<9"\n'
    )
    profile = load_profile_file(path)
    assert names(profile, "r", "1.5") == ["a", "b"]
    assert names(profile, "r", "2.0.post1+cu128") == ["a", "b"]
    assert names(profile, "r", "3.0") == ["a"]


@pytest.mark.parametrize(
    ("version", "note"),
    [
        ("0.33.0", ""),
        ("0.33.0+cu130", ""),
        ("0.20.0", ""),
        ("0.40.0", "newer than the newest verified release 0.33.0: hooks are resolved by name"),
        ("0.7.3", "older than the oldest verified release 0.8.5: hooks are resolved by name"),
        ("dev", "its version is not a PEP 440 version: hooks are resolved by name"),
        (None, "its version is not known: hooks are resolved by name"),
    ],
)
def test_how_far_a_version_can_be_trusted_is_said(version: str | None, note: str) -> None:
    assert version_note(load_profiles()["vllm"], version) == note


def test_an_engine_that_was_never_checked_against_a_release_has_nothing_to_compare() -> None:
    assert version_note(load_profiles()["tgi"], "3.0") == ""


@pytest.mark.parametrize(
    ("specifier", "version", "matches"),
    [
        (">=0.10.2", "0.10.2", True),
        (">=0.10.2", "0.10.1.1", False),
        (">=0.11", "0.11.0rc2", False),
        (">=0.11", "0.12.0.dev3+g12", True),
        ("<0.9", None, True),
        ("", "1", True),
        ("<0.9", "not-a-version", True),
    ],
)
def test_version_ranges_follow_pep_440(specifier: str, version: str | None, matches: bool) -> None:
    assert version_matches(specifier, version) is matches


MINE = (
    'schema = 1\nname = "{name}"\ntitle = "Mine"\norder = 1\n'
    '[[role]]\nname = "engine"\ncmdline_regex = "mine"\nprobed = true\nanchor = true\n'
)


def test_a_users_profile_replaces_the_packaged_one_of_its_name_and_adds_others(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(MINE.format(name="vllm"))
    (tmp_path / "b.toml").write_text(MINE.format(name="inhouse"))
    (tmp_path / "notes.txt").write_text("not a profile")
    found = load_profiles(tmp_path)
    assert found["vllm"].title == "Mine"
    assert found["vllm"].path == str(tmp_path / "a.toml")
    assert set(found) == ENGINES | {"inhouse"}
    assert list(found)[:2] == ["inhouse", "vllm"]


def test_a_missing_user_directory_is_the_same_as_an_empty_one(tmp_path: Path) -> None:
    assert set(load_profiles(tmp_path / "none")) == ENGINES


def test_two_files_for_one_engine_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(MINE.format(name="inhouse"))
    with pytest.raises(
        UsageError, match=re.escape(f"{tmp_path}/b.toml:1: the engine 'inhouse' is also defined in")
    ):
        load_profiles(tmp_path)


def test_the_example_profile_is_valid() -> None:
    example = Path(__file__).parents[2] / "examples" / "profiles" / "inhouse.toml"
    profile = load_profile_file(example)
    assert profile.name == "inhouse"
    assert profile.batch is not None
