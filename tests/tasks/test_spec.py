"""Task specs: what they mean, and the errors for what they cannot mean."""

import hashlib

import pytest

from farthing.errors import DataError
from farthing.tasks import open_levels, open_task, parse_spec

KEY = hashlib.sha256(b"key").hexdigest()


def test_values_are_json_where_they_can_be() -> None:
    spec = parse_spec("gym:chain_sum?max_terms=3&allow_negation=true&note=plain&list=[1,2]")
    assert (spec.source, spec.name) == ("gym", "chain_sum")
    assert spec.config == {"max_terms": 3, "allow_negation": True, "note": "plain", "list": [1, 2]}


def test_config_as_a_mapping() -> None:
    assert parse_spec("gym:chain_sum?min_terms=2", {"max_terms": 3}).config == {"min_terms": 2, "max_terms": 3}
    with pytest.raises(DataError, match="max_terms is set in the spec and in the config"):
        parse_spec("gym:chain_sum?max_terms=2", {"max_terms": 3})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("chain_sum", "does not have the form"),
        ("gym:", "does not have the form"),
        ("gim:chain_sum", "Did you mean 'gym'"),
        ("gym:chain_sums", "Did you mean 'chain_sum'"),
        ("gym:chain_sum?max_term=3", "Did you mean 'max_terms'"),
        ("gym:chain_sum?seed=3", "unknown config key"),
        ("gym:chain_sum?max_terms", "is not key=value"),
        ("gym:chain_sum?max_terms=3&max_terms=4", "given twice"),
        ("gym:chain_sum?max_terms=-3", "refuses the config"),
        ("gym:composite", "cannot be a task"),
        ("gym:rubiks_cube", "does not verify"),
        ("toy:running_totl", "Did you mean 'running_total'"),
        ("toy:running_total?max_term=3", "Did you mean 'max_terms'"),
        ("jsonl:missing.jsonl", "cannot be read"),
        ("jsonl:missing.jsonl?on_eror=skip", "Did you mean 'on_error'"),
    ],
)
def test_errors_name_what_was_meant(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_task(spec)


def test_toy_draws_follow_the_key() -> None:
    task = open_task("toy:running_total?max_terms=6")
    assert task.draw(KEY) == open_task("toy:running_total", {"max_terms": 6}).draw(KEY)
    assert task.draw(KEY).task == task.name
    assert len({task.draw(str(i)).question for i in range(20)}) > 15


def test_levels_overlay_the_config() -> None:
    levels = open_levels("gym:chain_sum?min_terms=2", [{"max_terms": 2}, {"max_terms": 4}])
    assert [level.name for level in levels] == [
        'gym:chain_sum?{"max_terms": 2, "min_terms": 2}',
        'gym:chain_sum?{"max_terms": 4, "min_terms": 2}',
    ]
