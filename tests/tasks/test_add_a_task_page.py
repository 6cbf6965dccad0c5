"""The page on adding a task, carried out as a reader would, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-task.md").read_text(encoding="utf-8")


def files_of(page: str) -> dict[str, str]:
    """Content of each file that the page gives: the block after a line that ends in the file's path."""
    blocks = re.findall(r"`((?:src|tests)/[\w/.]+\.(?:py|toml))`[^\n]*:\n\n```\w+\n(.*?)```", page, re.DOTALL)
    return dict(blocks)


def test_the_page_adds_a_task(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "crosstune", tmp_path / "src" / "crosstune")
    written = files_of(PAGE)
    registry = "src/crosstune/tasks/__init__.py"
    assert list(written) == [
        "src/crosstune/tasks/prompts/masakhanews.toml",
        "src/crosstune/tasks/benchmarks/masakhanews.py",
        registry,
        "tests/tasks/test_masakhanews.py",
    ]
    import_line, entry = written.pop(registry).strip("\n").split("\n\n")
    for name, content in written.items():
        file = tmp_path / name
        assert not (ROOT / name).exists(), "the example is no part of crosstune"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    text = (tmp_path / registry).read_text(encoding="utf-8")
    text = text.replace(
        "from crosstune.tasks.benchmarks.mgsm", f"{import_line}\nfrom crosstune.tasks.benchmarks.mgsm"
    )
    text = text.replace('    "mgsm": Mgsm,\n', f'{entry}\n    "mgsm": Mgsm,\n')
    (tmp_path / registry).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "tests" / "tasks" / "test_task_registry.py", tmp_path / "tests" / "tasks")

    env = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    tested = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    listed = subprocess.run(
        [sys.executable, "-m", "crosstune", "list", "tasks"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"^masakhanews +choice .*topic of a headline, 7 choices", listed.stdout, re.MULTILINE)
    for tool in (["ruff", "check", "-q"], ["ruff", "format", "-q", "--check"]):
        options = [
            "--config",
            str(ROOT / "pyproject.toml"),
            str(tmp_path / "src/crosstune/tasks/benchmarks/masakhanews.py"),
        ]
        subprocess.run([sys.executable, "-m", *tool, *options], check=True)
