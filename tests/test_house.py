"""Small files, small folders, no circle of imports: what keeps the source easy to find one's way in."""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PAGES = [*ROOT.glob("*.md"), ROOT / "benchmarks" / "NOTES.md", *(ROOT / "docs").glob("*.md")]
FILES = sorted(SOURCE.rglob("*.py"))
MOST_LINES, MOST_FILES = 400, 12


def module(file: Path) -> str:
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file): file for file in FILES}


def imported(name: str) -> Iterator[str]:
    """Modules of crosstune that a module imports: at its top, inside functions, and for types alone."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in MODULES:
                    yield whole
                elif node.module in MODULES:
                    yield node.module


IMPORTS = {name: set(imported(name)) - {name} for name in MODULES}


def children(package: str) -> dict[str, set[str]]:
    """Of a package's modules and folders, which of their siblings each imports."""
    inside = f"{package}."
    siblings: dict[str, set[str]] = {}
    for name, targets in IMPORTS.items():
        if name.startswith(inside):
            child = name.removeprefix(inside).partition(".")[0]
            named = {t.removeprefix(inside).partition(".")[0] for t in targets if t.startswith(inside)}
            siblings.setdefault(child, set()).update(named - {child})
    return siblings


PACKAGES = [name for name, file in MODULES.items() if file.name == "__init__.py"]


def test_the_walk_sees_imports_of_every_kind() -> None:
    assert "crosstune.study.spec" in IMPORTS["crosstune.study.runs"]  # at the top
    assert "crosstune.running.runner" in IMPORTS["crosstune.cli.main"]  # in a function
    assert "crosstune.training.loop" in IMPORTS["crosstune"]  # for types
    assert "running" in children("crosstune")["cli"]


def test_files_are_short() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_folders_are_small() -> None:
    counts: dict[str, int] = {}
    for file in FILES:
        folder = file.parent.relative_to(SOURCE).as_posix()
        counts[folder] = counts.get(folder, 0) + (file.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_siblings_import_in_no_circle(package: str) -> None:
    try:
        TopologicalSorter(children(package)).prepare()
    except CycleError as circle:
        pytest.fail(f"{package}: {' imports '.join(reversed(circle.args[1]))}")


def test_modules_import_in_no_circle() -> None:
    # A package's own file names what lies in it, for its callers; no module inside asks it back.
    TopologicalSorter({name: targets for name, targets in IMPORTS.items() if name != "crosstune"}).prepare()


# --- what folders and pages say ---------------------------------------------------------------------

FOLDERS = [name for name in PACKAGES if name != "crosstune"]


def may_import(package: str) -> set[str]:
    """The neighbours that a folder's own file names after "May import"."""
    text = ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    rule = re.search(r"May import (.*?)\.(?:\s|$)|Imports nothing of its neighbours\.", text, re.DOTALL)
    assert rule is not None, f"{package} does not say what it may import"
    return set(re.findall(r"`(\w+)`", rule[1] or ""))


@pytest.mark.parametrize("package", FOLDERS)
def test_a_folder_imports_what_it_says(package: str) -> None:
    parent, _, name = package.rpartition(".")
    assert children(parent)[name] - {"errors", "files"} <= may_import(package)


def arrows(kind: str) -> set[tuple[str, str]]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return set(re.findall(rf"^    (\w+) {kind} (\w+)$", page.partition("```mermaid")[2], re.MULTILINE))


SOLID, DOTTED = arrows("-->"), arrows(r"-\..*\.->")


def below(room: str, drawn: set[tuple[str, str]]) -> set[str]:
    reached = {end for start, end in drawn if start == room}
    return reached.union(*(below(end, drawn) for end in reached))


def contracts() -> list[dict[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def test_the_drawing_is_the_contract() -> None:
    layers = next(c["layers"] for c in contracts() if c.get("containers") == ["crosstune"])
    height = {room: -i for i, layer in enumerate(layers) for room in layer.split(" | ")}
    assert {room for arrow in SOLID for room in arrow} == set(height), "every room is drawn"
    assert [arrow for arrow in SOLID | DOTTED if height[arrow[0]] <= height[arrow[1]]] == []
    (cut,) = (c for c in contracts() if c["type"] == "forbidden")
    for room in cut["source_modules"]:
        forbidden = {name.removeprefix("crosstune.") for name in cut["forbidden_modules"]}
        assert below(room.removeprefix("crosstune."), SOLID) & forbidden == set()


def test_imports_follow_the_drawing() -> None:
    for room, targets in children("crosstune").items():
        if room != "__main__":
            assert targets <= below(room, SOLID | DOTTED), room
    for package in FOLDERS:
        if package.count(".") == 1:
            room = package.removeprefix("crosstune.")
            assert may_import(package) <= below(room, SOLID | DOTTED), room


def test_paths_on_the_pages_exist() -> None:
    missing = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        paths = re.findall(r"`((?:src/crosstune|tests|docs|studies|scripts|\.ci)/[\w./-]+)`", text)
        links = re.findall(r"\]\(([\w./-]+)\)", text)
        named = [ROOT / path for path in paths] + [page.parent / link for link in links]
        missing += [(page.name, path) for path in named if not path.exists()]
    # Files that a reader of the page writes.
    assert [path.name for _, path in missing if path.stem not in ("masakhanews", "test_masakhanews")] == []


def test_the_six_commands_can_be_given() -> None:
    block = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```")[1]
    commands = [line.partition("#")[0].strip() for line in block.strip().splitlines()]
    assert len(commands) == 6
    targets = [command.removeprefix("make ") for command in commands if command.startswith("make ")]
    # With the environment taken for ready, make says what each would run, and fails where it has no rule.
    dry = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/ready", *targets],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert dry.returncode == 0, dry.stderr
    for command in (
        "crosstune run studies/demo.yaml",
        "pytest",
        "ruff check",
        "mypy",
        "lint-imports",
        "pip-compile",
    ):
        assert command in dry.stdout
    (tests,) = (command for command in commands if not command.startswith("make "))
    assert (ROOT / tests.rpartition(" ")[2]).is_dir()
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert all(f"make {target}" in ci for target in ("test", "lint"))
