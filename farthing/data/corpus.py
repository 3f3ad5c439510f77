"""Problems -> training documents in several styles: with a chain of thought, with the answer at once, or without tags."""

from farthing.config import StyleConfig
from farthing.data.batches import Row
from farthing.errors import DataError
from farthing.renderer import Renderer, after_prefill
from farthing.tasks.problem import Problem
from farthing.tasks.stream import ProblemStream
from farthing.tasks.task import unit_interval


class Corpus:
    """An endless, seeded sequence of documents; document `index` is the same in every process."""

    def __init__(self, stream: ProblemStream, renderer: Renderer, styles: StyleConfig) -> None:
        self.stream, self.renderer, self.styles = stream, renderer, styles

    def take(self, count: int) -> list[Row]:
        """The next `count` documents as rows whose completion carries the loss; the stream's cursor moves on."""
        first, prefill = self.stream.cursor, self.renderer.prefill
        problems = self.stream.take(count)
        tokenizer = self.renderer.tokenizer
        prompts = tokenizer.encode_all([self.renderer.prompt(p.question) for p in problems])
        texts = [after_prefill(p.question, self._completion(p, first + i), prefill) for i, p in enumerate(problems)]
        completions = tokenizer.encode_all(texts)
        return [
            Row([*prompt, *completion, tokenizer.eos_id], len(prompt))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    def _completion(self, problem: Problem, index: int) -> str:
        if not problem.has_gold:
            raise DataError(f'task {problem.task!r} gives no answers (verifier "none"): there is nothing to train on')
        where = unit_interval("style", self.stream.seed, index)
        styles = self.stream.styles_of(problem) or self.styles
        if where < styles.chain:
            return with_chain(problem)
        if where < styles.chain + styles.direct:
            return f"<think></think><answer>{problem.answer}</answer>"
        return problem.answer


def with_chain(problem: Problem) -> str:
    if not problem.chains:
        raise DataError(
            f"task {problem.task!r} gives no chains of thought, which styles.chain > 0 asks for; "
            "set chain = 0, or use a task that has them (toy:*, or jsonl with a `chain` field)"
        )
    return f"<think>{problem.chains[0]}</think><answer>{problem.answer}</answer>"
