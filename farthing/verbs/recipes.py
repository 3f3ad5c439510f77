"""`farthing recipes`: the recipes that ship."""

from farthing.verbs.terminal import JsonFlag, console, print_json


def recipes(as_json: JsonFlag = False) -> None:
    """The recipes that ship, with what to expect of each.

    [bold]Example[/bold]   farthing recipes
    """
    from farthing.config import load_recipe, shipped_recipes

    loaded = {name: load_recipe(name) for name in shipped_recipes()}
    if as_json:
        keys = {"description", "expect", "runnable"}
        print_json([{"name": n, **r.model_dump(mode="json", include=keys)} for n, r in loaded.items()])
        return
    for name, recipe in loaded.items():
        console.print(f"[bold]{name}[/bold]  {recipe.description}")
        console.print(f"  stages: {', '.join(recipe.stages)}", highlight=False)
        console.print(f"  expect: {recipe.expect}", highlight=False)
