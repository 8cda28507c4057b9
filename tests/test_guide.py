"""The guide's snippets run, in order, in one namespace for each page; what it and the list of oracles name exists."""

from __future__ import annotations

import ast
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

# For tensors this small, threads that wait for each other cost more than they gain.
pytestmark = pytest.mark.usefixtures("one_thread")

TESTS = Path(__file__).resolve().parent
DOCS = TESTS.parent / "docs"
GUIDE = DOCS / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
ORACLES = DOCS / "oracles.md"
# Figures stay in git for ever. Photographs need more.
MOST_BYTES = 80_000
PHOTOGRAPHS = {"lecture_aero.png": 600_000}
# Packages that only some readers have: a snippet that needs one is left out where it is missing.
OPTIONAL = {"arviz"}


def snippets(page: Path) -> list[str]:
    """The Python blocks of a page, each moved down to its own lines, so that a traceback points at them."""
    text = page.read_text(encoding="utf-8")
    blocks = re.finditer(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * text.count("\n", 0, block.start(1)) + block[1] for block in blocks]


def test_there_is_a_guide() -> None:
    assert PAGES
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("\n```") % 2 == 0, f"{page.name} has a block without an end"
        assert len(snippets(page)) == len(re.findall(r"^```python", text, flags=re.MULTILINE))


# arviz 0.23 announces its next version as soon as it is imported.
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_guide_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "guide"}
    for snippet in snippets(page):
        code = compile(snippet, str(page), "exec")
        try:
            exec(code, namespace)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise


@pytest.mark.parametrize("page", [*PAGES, ORACLES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    if not (DOCS.parent / "benchmarks").is_dir():  # the wheel's tests have none
        links = [link for link in links if "/benchmarks/" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


def test_every_figure_is_shown_and_small() -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    figures = sorted(GUIDE.glob("figures/*"))
    assert figures
    for figure in figures:
        assert f"(figures/{figure.name})" in shown, f"{figure.name} is on no page"
        most = PHOTOGRAPHS.get(figure.name, MOST_BYTES)
        assert figure.stat().st_size <= most, f"{figure.name} is too large; draw it with fewer colours"


def test_the_script_draws_small_figures_with_a_palette(tmp_path: Path) -> None:
    guide_figures = pytest.importorskip("benchmarks.guide_figures", reason="no folder benchmarks/: this is the wheel")
    guide_figures.main(["hopfield", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["hopfield.png"]
    with Image.open(tmp_path / "hopfield.png") as image:
        assert image.mode == "P"
        assert image.width > 600
    assert (tmp_path / "hopfield.png").stat().st_size <= MOST_BYTES
    with pytest.raises(SystemExit):
        guide_figures.main(["nothing"])


def test_likelihoods_of_the_figure_are_those_of_bars_and_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    guide_learning = pytest.importorskip("benchmarks.guide_learning", reason="no folder benchmarks/: this is the wheel")
    monkeypatch.setattr(guide_learning, "STEPS", 1000)
    # 28 images once and 2 twice.
    best = -(28 / 32 * math.log(32) + 4 / 32 * math.log(16))
    assert guide_learning.best_possible() == pytest.approx(best, abs=1e-12)
    found = guide_learning.likelihoods(guide_learning.RULES["CD-1"], seed=0)
    assert len(found) == 11
    assert found[0] == pytest.approx(-16 * math.log(2), abs=0.01)
    assert found[0] + 1 < found[-1] < best


def test_every_oracle_has_its_test() -> None:
    rows = [line for line in ORACLES.read_text(encoding="utf-8").splitlines() if line.startswith("| ") and "::" in line]
    assert len(rows) > 50
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, f"expected 4 columns, found {len(cells)}: {row}"
        assert all(cells), row
        for name in cells[3].split(", "):
            match = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", name)
            assert match, f"expected `test_file.py::test_name`, found {name}"
            assert match[2] in functions_of(TESTS / match[1]), f"{match[1]} has no {match[2]}"


@cache
def functions_of(file: Path) -> set[str]:
    """Functions of a module."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
