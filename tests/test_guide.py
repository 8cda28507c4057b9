"""The guide's snippets run, in order, in one namespace for each page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guide"
PAGES = sorted(GUIDE.glob("*.md"))
# Packages that only some readers have: a snippet that needs one is left out where it is missing.
OPTIONAL = {"arviz"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For tensors this small, threads that wait for each other cost more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
