"""Studies, examples and pages that come with crosstune: in a checkout, or inside the installed wheel."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FOLDERS = ("studies", "examples", "docs")


def folder(name: str) -> Path:
    """One of `FOLDERS`: in the wheel beside the source, in a checkout at its top."""
    inside = PACKAGE / "ready" / name
    return inside if inside.is_dir() else PACKAGE.parents[1] / name


def found(path: Path) -> Path:
    """The file, or where it is not there the ready one of that name: ``studies/demo.yaml``."""
    if not path.exists() and path.parts[:1] and path.parts[0] in FOLDERS:
        ready = folder(path.parts[0]).joinpath(*path.parts[1:])
        return ready if ready.is_file() and ".." not in path.parts else path
    return path


def listed(name: str, ends: str) -> dict[str, str]:
    """The files in one of `FOLDERS` whose names end so: path as `found` takes it, and first line."""
    files = sorted(folder(name).glob(f"*{ends}"))
    return {f"{name}/{file.name}": _head(file) for file in files}


def _head(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return lines.readline().strip("# \n")
