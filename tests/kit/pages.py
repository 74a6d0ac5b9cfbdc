"""The project's files as their readers see them: pages, links, fenced blocks, tables, and what the code says."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from tools.docs import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("tap_instances", "source_codechat_instances")


class Block(NamedTuple):
    """A fenced block: where it stands, its language, its text."""

    page: str
    language: str
    text: str


@cache
def files() -> tuple[str, ...]:
    """Return the project's files: what git knows, or would on `git add`."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file()))


def pages() -> list[str]:
    """Return the Markdown files."""
    return [name for name in files() if name.endswith(".md")]


def read(name: str) -> str:
    """Return a file's text."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    """Return every fenced block in one of these languages."""
    fence = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [Block(page, *match) for page in pages() for match in fence.findall(read(page))]
    return [block for block in found if block.language in languages]


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def links(page: str) -> list[str]:
    """Return the targets of a page's links."""
    without_code = re.sub(r"`[^`]*`", "code", prose(page))
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


def anchors(page: str) -> set[str]:
    """Return a page's anchors, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def first_cells(page: str) -> list[str]:
    """Return what stands as code in the first column of a page's tables."""
    rows = re.findall(r"^\| (.*?) \|", prose(page), re.MULTILINE)
    return [span for row in rows for span in re.findall(r"`([^`]+)`", row)]


def meltano() -> dict[str, Any]:
    """Return meltano.yml."""
    project: dict[str, Any] = yaml.safe_load(read("meltano.yml"))
    return project


def extractor() -> dict[str, Any]:
    """Return the tap's definition in meltano.yml."""
    [definition] = meltano()["plugins"]["extractors"]
    result: dict[str, Any] = definition
    return result


def loader(name: str) -> dict[str, Any]:
    """Return a loader's definition in meltano.yml."""
    [definition] = [loader for loader in meltano()["plugins"]["loaders"] if loader["name"] == name]
    result: dict[str, Any] = definition
    return result


def loader_settings(name: str) -> dict[str, Any]:
    """Return the values that meltano.yml gives a loader."""
    return {setting["name"]: setting["value"] for setting in loader(name)["settings"] if "value" in setting}


@cache
def trees() -> tuple[ast.Module, ...]:
    """Return the modules of both packages, parsed."""
    modules: list[Path] = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(ast.parse(path.read_text(encoding="utf-8")) for path in modules)


def texts() -> Iterator[str]:
    """Yield every text in the packages, with `…` for what is put into it."""
    for tree in trees():
        for node in ast.walk(tree):
            yield from _flat(node)


def complaints() -> Iterator[str]:
    """Yield the texts of warnings and errors."""
    speaking = {"warning", "error", "SnapshotError", "SyncError"}
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                for argument in node.args if name in speaking else ():
                    yield from _flat(argument)


def fragments(text: str) -> list[str]:
    """Return the parts of a line that stand in the code as they are."""
    parts = (part.strip(" ():;,.") for part in re.split("…|: ", text))
    return [part for part in parts if len(part) > 3 and not re.fullmatch(r"\d{3} [A-Z][A-Za-z ]+", part)]


def _flat(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [re.sub(r"%[-.\d]*[a-z]|\{\}", "…", node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join((_flat(part) or ["…"])[0] for part in node.values)]
    return []
