"""Every name in the profiles of vLLM, transformers and SGLang exists in the releases installed here."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prismtop.targets.profile import Hook
from prismtop.targets.profiles import hooks_for, load_profiles

ENGINES = Path(
    os.environ.get("ENGINES")
    or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prismtop-engines"
)
INSTALLED = {  # profile: (virtual environment, dist-info, packages in which attributes may be defined)
    "vllm": (
        "vllm",
        "vllm",
        ("vllm/v1/core", "vllm/v1/engine", "vllm/v1/worker/gpu", "vllm/v1/outputs.py", "vllm/v1/request.py"),
    ),
    "transformers": ("hf", "transformers", ("transformers/generation",)),
    "sglang": ("sgl", "sglang", ("sglang/srt/managers", "sglang/srt/mem_cache", "sglang/srt/model_executor")),
    "sglang-diffusion": ("sgl", "sglang", ("sglang/multimodal_gen/runtime",)),
}
BUILT_IN = {"name", "shape", "get", "values", "items", "keys", "startswith", "dtype"}
DEMO_SITE = Path(__file__).parents[2]


def site(environment: str) -> Path | None:
    return next(iter(sorted((ENGINES / environment).glob("lib/python3*/site-packages"))), None)


def installation(profile: str) -> tuple[Path, str]:
    """site-packages and version, or skip."""
    if profile == "demo":
        return DEMO_SITE, "0"
    environment, distribution, _ = INSTALLED[profile]
    packages = site(environment)
    info = next(iter(sorted(packages.glob(f"{distribution}-*.dist-info"))), None) if packages else None
    if packages is None or info is None:
        pytest.skip(f"{distribution} is not installed under {ENGINES}")
    return packages, info.name.removesuffix(".dist-info").partition("-")[2]


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def module_file(packages: Path, module: str) -> Path | None:
    base = packages.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def function(tree: ast.Module, qualname: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    body: list[ast.stmt] = tree.body
    *classes, name = qualname.split(".")
    for class_name in classes:
        found = [node for node in body if isinstance(node, ast.ClassDef) and node.name == class_name]
        if not found:
            return None
        body = found[0].body
    functions = [
        node
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name
    ]
    return functions[-1] if functions else None


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    every = [
        *node.args.posonlyargs,
        *node.args.args,
        *node.args.kwonlyargs,
        node.args.vararg,
        node.args.kwarg,
    ]
    return {argument.arg for argument in every if argument is not None}


def expressions(hook: Hook) -> Iterator[tuple[str, str, frozenset[str]]]:
    for table in (hook.entry, hook.exit):
        for name, expression in table.items():
            yield name, expression.source, expression.names
    for event in hook.events:
        yield event.kind, event.each.source, event.each.names


@functools.cache
def defined_attributes(packages: Path, folders: tuple[str, ...]) -> frozenset[str]:
    """Names of methods, annotated fields, slots, and attributes assigned anywhere in the folders."""
    names: set[str] = set()
    for folder in folders:
        base = packages / folder
        for path in [base] if base.is_file() else base.rglob("*.py"):
            for node in ast.walk(parsed(path)):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    names.add(node.name)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    names.add(node.attr)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    names.add(node.target.id)
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and node.value.isidentifier()
                ):
                    names.add(node.value)  # __slots__
    return frozenset(names)


def cases() -> Iterator[object]:
    profiles = load_profiles()
    for name in ("demo", *INSTALLED):
        try:
            packages, version = installation(name)
        except pytest.skip.Exception as skip:
            yield pytest.param(name, None, None, id=name, marks=pytest.mark.skip(reason=str(skip.msg)))
            continue
        seen = {}
        for role in {role.name for role in profiles[name].roles}:
            for hook in hooks_for(profiles[name], role, version):
                seen[hook.name] = hook
        for hook in seen.values():
            yield pytest.param(name, packages, hook, id=f"{name}-{hook.name}")


@pytest.mark.parametrize(("profile", "packages", "hook"), list(cases()))
def test_a_hook_names_a_function_of_the_installed_release(profile: str, packages: Path, hook: Hook) -> None:
    path = module_file(packages, hook.module)
    if path is None:
        # Old layouts of the same name have no version bound when nothing else follows them.
        pytest.fail(f"there is no module {hook.module}")
    node = function(parsed(path), hook.qualname)
    assert node is not None, f"{hook.module} has no {hook.qualname}"
    assert isinstance(node, ast.AsyncFunctionDef) == hook.kind.startswith("async"), hook.kind
    decorators = {getattr(d, "id", "") for d in node.decorator_list}
    assert ("classmethod" in decorators) == (hook.kind == "classmethod")
    assert ("staticmethod" in decorators) == (hook.kind == "staticmethod")
    assert "property" not in decorators
    for name, source, names in expressions(hook):
        assert names <= parameters(node) | {"ret"}, f"{name}: {source}"


@pytest.mark.parametrize(("profile", "packages", "hook"), list(cases()))
def test_an_expression_reads_attributes_that_the_installed_release_defines(
    profile: str, packages: Path, hook: Hook
) -> None:
    folders = ("prismtop/demo",) if profile == "demo" else INSTALLED[profile][2]
    for name, source, _ in expressions(hook):
        read = {
            node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)
        } - BUILT_IN
        missing = read and read - defined_attributes(packages, folders)
        assert not missing, f"{name}: {source}: {missing}"
