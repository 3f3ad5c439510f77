"""Self-verification words: counted whole, in any case, and by the recipe's own list where it has one."""

from dataclasses import replace

import pytest

from farthing.config import GrpoConfig, RewardConfig, load_recipe, parse_recipe
from farthing.errors import RecipeError
from farthing.reflection import REFLECTION_WORDS, count_words
from farthing.rollout import rollout_metrics, score_groups
from tests.conftest import MICRO
from tests.test_rollout import PROBLEMS, made


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Wait, wait... WAIT!", {"wait": 3}),
        ("awaits waiter waiting butter attribute checked", {}),
        ("wait5 _check_ (verify) but\nhowever", {"wait": 1, "check": 1, "verify": 1, "but": 1, "however": 1}),
        ("waitwait wait", {"wait": 1}),
        ("等等wait等", {}),
        ("", {}),
    ],
)
def test_words_are_counted_whole(text: str, found: dict[str, int]) -> None:
    assert count_words([text], REFLECTION_WORDS) == found


def test_counts_add_up_over_texts_and_words_can_be_others() -> None:
    assert count_words(["hmm, check", "Hmm hmm"], ["hmm"]) == {"hmm": 3}
    assert count_words(["wait"], []) == {}


def test_the_metric_is_a_mean_over_completions() -> None:
    rollouts = [replace(made(PROBLEMS[0], "2"), text=text) for text in ("wait, check", "2")]
    groups = score_groups([rollouts], RewardConfig())
    assert rollout_metrics(groups)["reflection"] == 1.0
    assert rollout_metrics(groups, ["check"])["reflection"] == 0.5


def test_the_recipe_has_the_words_and_they_decide_nothing() -> None:
    plain, other = load_recipe(str(MICRO)), load_recipe(str(MICRO), ['r1_zero.reflection_words=[" Hmm "]'])
    stage = other.stages["r1_zero"]
    assert isinstance(stage, GrpoConfig)
    assert stage.reflection_words == ["hmm"]
    assert plain.digest() == other.digest()
    assert plain.keys() == other.keys()
    with pytest.raises(RecipeError, match="at least 1 character"):
        parse_recipe(plain.model_dump() | {"stages": {"r1_zero": stage.model_dump() | {"reflection_words": [" "]}}}, where="x")
