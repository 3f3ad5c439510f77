"""Documents answer in the style of their task, where the recipe gives that task one of its own."""

from farthing.config import StyleConfig, TaskConfig
from farthing.data.corpus import Corpus
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
