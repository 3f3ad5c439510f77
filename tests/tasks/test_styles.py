"""Documents answer in the style of their task, where the recipe gives that task one of its own."""

import pytest

from farthing.config import StyleConfig, TaskConfig
from farthing.data.corpus import Corpus
from farthing.errors import DataError
from farthing.renderer import Renderer
from farthing.tasks.stream import ProblemStream
from farthing.tasks.toy import ALPHABET, HAN_DIGITS
from farthing.tasks.toy_general import ALPHABET as MORE
from farthing.tokenizer import Tokenizer


def test_a_task_without_chains_has_a_style_of_its_own() -> None:
    direct = StyleConfig(chain=0, direct=1, untagged=0)
    tasks = [TaskConfig(spec="toy:running_total"), TaskConfig(spec="toy:general", styles=direct)]
    tokenizer = Tokenizer.characters(ALPHABET + HAN_DIGITS + MORE)
    stream = ProblemStream(tasks, seed=0, test_share=0.1)
    corpus = Corpus(stream, Renderer(tokenizer), StyleConfig(chain=1, direct=0, untagged=0))
    texts = [tokenizer.decode(row.tokens) for row in corpus.take(40)]
    problems = ProblemStream(tasks, seed=0, test_share=0.1).take(40)
    assert {p.task for p in problems} == {"toy:running_total", "toy:general"}
    for text, problem in zip(texts, problems, strict=True):
        chain = problem.chains[0] if problem.chains else ""
        assert text == f"{problem.question}\n<think>{chain}</think><answer>{problem.answer}</answer>"


def test_levels_of_a_curriculum_share_the_style() -> None:
    direct = StyleConfig(chain=0, direct=1, untagged=0)
    levels = [{"min_terms": 2, "max_terms": 2}, {"min_terms": 3, "max_terms": 3}]
    stream = ProblemStream([TaskConfig(spec="toy:running_total", levels=levels, styles=direct)], seed=0, test_share=0.1)
    assert [stream.styles_of(p) for p in stream.take(3)] == [direct] * 3


def test_a_prefill_is_said_once() -> None:
    """The prompt ends in it, and the document goes on from there; one that does not begin so cannot be learnt."""
    tokenizer = Tokenizer.characters(ALPHABET + HAN_DIGITS)
    stream = ProblemStream([TaskConfig(spec="toy:running_total")], seed=0, test_share=0.1)
    rows = Corpus(stream, Renderer(tokenizer, prefill="<think>"), StyleConfig(chain=0.5, direct=0.5, untagged=0)).take(20)
    for row in rows:
        text = tokenizer.decode(row.tokens)
        assert text.count("<think>") == text.count("</think>") == 1
        assert tokenizer.decode(row.tokens[: row.num_prompt]).endswith("?\n<think>")
    untagged = Corpus(stream, Renderer(tokenizer, prefill="<think>"), StyleConfig(chain=0, direct=0, untagged=1))
    with pytest.raises(DataError, match=r"does not begin with prompt\.prefill = '<think>'"):
        untagged.take(1)
