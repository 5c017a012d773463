"""The pages of docs/: links lead somewhere, generated pages are fresh, nothing is left out."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as Python-Markdown and GitHub make them of plain headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?://|mailto:", link)]


@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *PAGES, ROOT / "pipelines" / "examples" / "README.md"],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_pages_of_docs_link_only_to_pages_of_docs() -> None:
    """The site has no other files."""
    outside = {
        link
        for page in PAGES
        for link in links(page)
        if link.partition("#")[0] and DOCS not in (page.parent / link.partition("#")[0]).resolve().parents
    }
    assert outside == set()


def test_every_page_is_in_the_navigation() -> None:
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"([\w/-]+\.md)", yaml.safe_dump(yaml.safe_load(text)["nav"]))
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_the_reference_is_what_the_code_says(tmp_path: Path) -> None:
    # in a process of its own: kfp asks for the stack at each setting of a task, which takes a second among a
    # test session's modules
    script = [sys.executable, DOCS / "reference" / "generate.py", tmp_path]
    subprocess.run(script, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    generated = {page.name: page.read_text() for page in tmp_path.glob("*.md")}
    written = {page.name: page.read_text() for page in (DOCS / "reference").glob("*.md")}
    assert written == generated, "run python docs/reference/generate.py"


def test_the_reference_names_every_key_of_a_recipe_and_its_bounds() -> None:
    page = (DOCS / "reference" / "recipe.md").read_text()
    assert '| `learning_rate` | number > 0 or `auto` | `"auto"` |' in page
    assert '| `compile`* | `auto` or `off` or `on` | `"auto"` |' in page


def test_the_picture_is_what_its_script_draws() -> None:
    drawn = runpy.run_path(str(DOCS / "pictures" / "steps.py"))["picture"]()
    assert (DOCS / "pictures" / "steps.svg").read_text() == drawn, "run python docs/pictures/steps.py"


def test_a_page_that_code_cites_exists() -> None:
    sources = [path for name in ("components", "pipelines", "tests") for path in (ROOT / name).rglob("*.py")]
    cited = {name for path in sources for name in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text())}
    assert [name for name in sorted(cited) if not (ROOT / name).exists()] == []
