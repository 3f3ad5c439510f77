"""The documents say what the code does: the reference is current, links resolve, commands and keys named in prose exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from farthing.config import load_recipe, parse_recipe, shipped_recipes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_the_reference_is_what_the_code_says() -> None:
    command = [sys.executable, "-c", "import runpy, sys; sys.stdout.write(runpy.run_path('docs/build.py')['build']())"]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert built == (ROOT / "docs" / "reference.md").read_text(), "run: python docs/build.py"


def test_the_readme_shows_what_the_benches_wrote() -> None:
    lines = "import runpy; from pathlib import Path; made = runpy.run_path('docs/build.py')['fill_measured']"
    lines += "; assert made(Path('README.md').read_text()) == Path('README.md').read_text(), 'run: python docs/build.py'"
    subprocess.run([sys.executable, "-c", lines], cwd=ROOT, check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_files_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_prose_exist(page: Path) -> None:
    from typer.main import get_command

    from farthing.cli import app

    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL))
    named = re.findall(r"^farthing ([a-z-]+)", blocks, flags=re.MULTILINE)
    assert set(named) <= verbs


def test_recipes_in_prose_parse(tmp_path: Path) -> None:
    blocks = [b for page in PAGES for b in re.findall(r"```toml\n(.*?)```", page.read_text(), flags=re.DOTALL)]
    recipes = [b for b in blocks if "[stages" in b]
    assert recipes
    for number, block in enumerate(recipes):
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        load_recipe(str(path))


def test_switches_in_the_guide_are_keys_with_allowed_values() -> None:
    text = (ROOT / "docs" / "guide.md").read_text()
    table = text[text.index("## 7.") :]
    for row in re.findall(r"^\| [^|]+ \| (`[^|]+`) \|$", table, flags=re.MULTILINE):
        settings = tomllib.loads("\n".join(re.findall(r"`([^`]+)`", row)))
        recipe = load_recipe("r1-zero-tiny").model_dump()
        recipe["stages"]["r1_zero"] |= settings
        parse_recipe(recipe, where=row)


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_parse_and_state_what_to_expect(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.expect


def test_no_placeholder_is_left() -> None:
    for page in PAGES:
        assert not re.search(r"@[A-Z_]+@|TODO|TBD", page.read_text()), page.name
