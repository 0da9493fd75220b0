"""Engine profiles: which processes an engine has, which functions to time in them, and what to read there.

One TOML file per engine in `engines/`; a user's files override by name or add.
"""

from __future__ import annotations

from pathlib import Path

from prismtop.errors import UsageError
from prismtop.targets.profile import BatchRule, Event, Hook, MetricsRule, ModelRule, Profile, Role
from prismtop.targets.profile_file import load_profile_file

__all__ = [
    "BatchRule",
    "Event",
    "Hook",
    "MetricsRule",
    "ModelRule",
    "Profile",
    "Role",
    "hooks_for",
    "load_profile_file",
    "load_profiles",
    "version_matches",
    "version_note",
]

_PACKAGED = Path(__file__).parent / "engines"


def load_profiles(user_dir: Path | None = None) -> dict[str, Profile]:
    """Every profile by name, in the order in which discovery tries them (`order`, then name).

    Args:
        user_dir: directory of the user's `*.toml`; a profile there replaces the packaged one of that name.
            Missing is the same as empty.

    Raises:
        UsageError: a file is wrong, or two of the user's files define the same engine.
    """
    packaged = (load_profile_file(path, trusted=True) for path in sorted(_PACKAGED.glob("*.toml")))
    found = {profile.name: profile for profile in packaged}
    own: dict[str, Profile] = {}
    for path in sorted(user_dir.glob("*.toml")) if user_dir is not None else ():
        profile = load_profile_file(path)
        if (first := own.get(profile.name)) is not None:
            raise UsageError(
                f"{path}:1: the engine {profile.name!r} is also defined in {first.path}.",
                fix="Keep one of the two files.",
            )
        own[profile.name] = profile
    found.update(own)
    return {profile.name: profile for profile in sorted(found.values(), key=lambda p: (p.order, p.name))}


def hooks_for(profile: Profile, role: str, version: str | None) -> tuple[Hook, ...]:
    """The hooks to try in a process of `role`, in the profile's order.

    An unknown version keeps all, except that of several variants for one function only the one for the newest
    releases (the first in the file) stays. A version newer than the newest verified one keeps those without
    an upper bound.
    """
    hooks = [hook for hook in profile.hooks if role in hook.roles]
    parsed = _parse(version)
    if parsed is None:
        newest = {(hook.module, hook.qualname): hook for hook in reversed(hooks)}
        return tuple(hook for hook in hooks if newest[(hook.module, hook.qualname)] is hook)
    newer = _is_newer(profile, version)
    return tuple(
        hook
        for hook in hooks
        if version_matches(hook.versions, version) and not (newer and _has_upper_bound(hook.versions))
    )


def version_matches(specifier: str, version: str | None) -> bool:
    """Whether `version` satisfies a PEP 440 specifier; an unknown or unreadable version does."""
    if not specifier or (parsed := _parse(version)) is None:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(parsed, prereleases=True)  # type: ignore[arg-type]


def version_note(profile: Profile, version: str | None) -> str:
    """One sentence on how far the hooks can be trusted for this version; empty when it was verified."""
    if not profile.verified:
        return ""
    if version is None:
        return "its version is not known: hooks are resolved by name"
    if _parse(version) is None:
        return "its version is not a PEP 440 version: hooks are resolved by name"
    if _is_newer(profile, version):
        return f"newer than the newest verified release {profile.verified[-1]}: hooks are resolved by name"
    if version_matches(f"<{profile.verified[0]}", version):
        return f"older than the oldest verified release {profile.verified[0]}: hooks are resolved by name"
    return ""


def _parse(version: str | None) -> object | None:
    if version is None:
        return None
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return None


def _is_newer(profile: Profile, version: str | None) -> bool:
    if not profile.verified or _parse(version) is None or _parse(profile.verified[-1]) is None:
        return False
    from packaging.version import Version

    # A local part (0.33.0+cpu) and a post release are the same code as far as names go.
    return Version(str(version)).release > Version(profile.verified[-1]).release


def _has_upper_bound(specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return any(spec.operator in ("<", "<=", "==", "===", "~=") for spec in SpecifierSet(specifier))
