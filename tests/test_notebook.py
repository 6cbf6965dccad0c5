"""The example notebook: its cells run, and still say what is shown in it.

Its outputs were made by Jupyter; here they are made again by Python alone, which needs none of Jupyter's
packages.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from saved_model import save_model

NOTEBOOK = Path(__file__).parents[1] / "examples" / "notebook.ipynb"


def last_value(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line if that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_example_notebook_says_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    import altair

    monkeypatch.chdir(NOTEBOOK.parent)
    cells = [
        cell
        for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    names: dict[str, Any] = {}
    tables = charts = 0
    with altair.renderers.enable("png"):
        for cell in cells:
            value = last_value("".join(cell["source"]), names)
            shown: dict[str, Any] = cell["outputs"][0]["data"] if cell["outputs"] else {}
            if "image/png" in shown:
                # Pictures differ by fonts and versions; that one is drawn is what can be held.
                assert len(value._repr_mimebundle_()[0]["image/png"]) > 1000
                charts += 1
            elif "text/html" in shown:
                assert value._repr_html_() == "".join(shown["text/html"])
                tables += 1
    assert (tables, charts) == (5, 3)


def test_the_notebook_that_tunes_ends_with_a_saved_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    model = save_model(tmp_path / "model")
    cells = json.loads(NOTEBOOK.with_name("tune.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        source = "".join(cell["source"]).replace("demo:gemma-3-270m", str(model))
        source = source.replace('"steps": 24', '"steps": 2').replace('"limit": 30', '"limit": 4')
        value = last_value(source, names)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(value)
