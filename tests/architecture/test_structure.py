"""Structure that a reader can rely on: sizes, names, pages for parts, presets in the wheel."""

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mypt_dist
from mypt_dist.launch.files import targets
from mypt_dist.models import MODELS
from mypt_dist.optim import OPTIMIZERS
from mypt_dist.tokenizers import KINDS
from mypt_dist.tracking import TRACKERS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mypt_dist"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_CODE = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "launch/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", ALL_CODE, ids=relative)
def test_a_module_fits_in_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_says_what_it_is_for_and_has_a_telling_name(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert path.stem not in {"utils", "common", "helpers", "misc", "core", "manager"}


def test_every_module_can_be_imported() -> None:
    for module in pkgutil.walk_packages(mypt_dist.__path__, "mypt_dist."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


@pytest.mark.parametrize(
    "module",
    [
        "mypt_dist",
        "mypt_dist.cli.app",
        "mypt_dist.run.config",
        "mypt_dist.data.prepare",
        "mypt_dist.data.sources",
        "mypt_dist.checkpoint",
    ],
)
def test_what_must_be_quick_or_small_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; assert 'torch' not in sys.modules and 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_part_has_a_page() -> None:
    pages = {
        *(f"components/models/{name}.md" for name in MODELS.names()),
        *(f"components/optimizers/{name}.md" for name in OPTIMIZERS.names()),
        *(f"components/trackers/{name}.md" for name in TRACKERS.names()),
    }
    assert [page for page in sorted(pages) if not (ROOT / "docs" / page).is_file()] == []
    tokenizers = (ROOT / "docs/components/tokenizers.md").read_text()
    assert all(kind in tokenizers for kind in KINDS)
    launching = (ROOT / "docs/components/launch/targets.md").read_text()
    assert [file.name for file in targets() if f"| `{file.name}` |" not in launching] == []


FROM_SCHEMAS = ("run-file.md", "sources-file.md")
"""Pages that are as long as what they list."""


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_and_paths_on_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []
    tests = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert [path for path in tests if not (ROOT / path).is_file()] == []
    assert len(text.splitlines()) <= 150 or page.name in FROM_SCHEMAS


def test_the_changelog_speaks_of_what_is_not_released() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()


def test_public_names_are_those_that_are_promised() -> None:
    from mypt_dist.run import api

    promised = {"create_model", "generate", "get_model_info", "list_models", "load_model", "train"}
    assert set(mypt_dist.__all__) == set(api.__all__) == promised
    assert all(callable(getattr(mypt_dist, name)) for name in promised)
