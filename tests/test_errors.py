"""The exception tree: its docstring is what users and scripts read, so it must say what the classes do."""

import re

import pytest

from farthing import errors
from farthing.errors import FarthingError

WRONG_INPUT = 2
"""Recipe, data, model and price: all mean that what was given must change."""
TREE_LINE = re.compile(r"^(?P<branch>[│ ├└─]*)(?P<name>[A-Z]\w+)(?:\s{2,}\S.*?)?(?:\s{2,}exit (?P<code>\d+))?$")

CLASSES: dict[str, type[FarthingError]] = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type)}


def tree() -> dict[str, tuple[str | None, int | None]]:
    """Name -> (parent by indentation, exit code as written) of the docstring's tree."""
    found: dict[str, tuple[str | None, int | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = TREE_LINE.match(line)
        if match is None:
            continue
        depth = len(match["branch"]) // 4
        above = [*above[:depth], match["name"]]
        code = int(match["code"]) if match["code"] else None
        found[match["name"]] = (above[-2] if depth else None, code)
    return found


def test_every_class_is_in_the_tree_and_nothing_else() -> None:
    assert tree().keys() == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_the_tree_shows_the_parent_and_the_exit_code(name: str) -> None:
    parent, code = tree()[name]
    assert CLASSES[name].__base__ is (Exception if parent is None else CLASSES[parent])
    assert code in (CLASSES[name].exit_code, None)
    written_itself = "exit_code" in vars(CLASSES[name]) and CLASSES[name] is not FarthingError
    assert written_itself == (code is not None), "the classes with an exit code of their own show it, and only those"


def test_one_exit_code_means_one_thing() -> None:
    own = {name: cls.exit_code for name, cls in CLASSES.items() if "exit_code" in vars(cls)}
    wrong_input = {name for name, code in own.items() if code == WRONG_INPUT}
    assert wrong_input == {"RecipeError", "DataError", "ModelError", "PriceError"}
    others = [code for code in own.values() if code != WRONG_INPUT]
    assert len(others) == len(set(others))
    assert 0 not in own.values(), "0 is success"
    assert own["Interrupted"] == 128 + 2, "what a shell reports for Ctrl-C"
