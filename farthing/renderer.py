"""A question -> the prompt's text. How the model is asked, and where its completion begins, is decided here alone.

`bare`     the question and a newline: for bases pretrained on exactly that.
`r1_zero`  DeepSeek-R1's template for a base model (arXiv:2501.12948, table 1).
`chat`     the model's own chat template with the instruction as a system message.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jinja2
import jinja2.sandbox

from farthing.errors import DataError, ModelError, RecipeError
from farthing.tokenizer import Tokenizer

Template = Literal["bare", "r1_zero", "chat"]

R1_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, respectively, "
    "i.e., <think> reasoning process here </think> <answer> answer here </answer>. User: {question}. Assistant:"
)

FIELD = re.compile(r"\{([a-z_]+)\}")
ROLES = ("user", "assistant")


class Renderer:
    """Turns questions into prompts for one tokenizer and one template."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template = "bare",
        instruction: str = "",
        prefill: str = "",
        examples: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`instruction` goes before the question (chat: as the system message); `prefill` opens the completion; `examples`
        (question, whole completion) are shown before the question (chat: as earlier turns)."""
        self.tokenizer, self.template, self.instruction, self.prefill = tokenizer, template, instruction, prefill
        self.examples = tuple(examples)
        if template == "chat" and not tokenizer.chat_template:
            raise RecipeError(
                'template = "chat" needs a model with a chat template, and this one has none; '
                'use "r1_zero" or "bare", or add chat_template.jinja to the model folder'
            )

    def prompt(self, question: str) -> str:
        """The text the model is given, up to the first token it samples."""
        if self.template == "chat":
            turns = [{"role": role, "content": text} for pair in self.examples for role, text in zip(ROLES, pair, strict=True)]
            return self.chat([*self._system(), *turns, {"role": "user", "content": question}]) + self.prefill
        shown = "".join(f"{self._asked(asked)}{completion}\n" for asked, completion in self.examples)
        return f"{self.instruction}{shown}{self._asked(question)}{self.prefill}"

    def _asked(self, question: str) -> str:
        return R1_ZERO.format(question=question) if self.template == "r1_zero" else f"{question}\n"

    def with_examples(self, examples: Sequence[tuple[str, str]]) -> "Renderer":
        """Few-shot: the same, with these shown before every question."""
        return Renderer(self.tokenizer, self.template, self.instruction, self.prefill, examples)

    def _system(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.instruction}] if self.instruction else []

    def whole(self, question: str, completion: str) -> str:
        """A question and its completion as one text, as a reward model reads it: nothing is still to be sampled."""
        if self.template != "chat":
            return f"{self.instruction}{self._asked(question)}{completion}"
        messages = [*self._system(), {"role": "user", "content": question}, {"role": "assistant", "content": completion}]
        return render_chat(self.tokenizer, messages, is_open=False)

    def prompt_tokens(self, question: str) -> list[int]:
        return self.tokenizer.encode(self.prompt(question))

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Messages through the model's own template, ready for the assistant's turn."""
        if not self.tokenizer.chat_template:
            raise ModelError("this model has no chat template; ask with `farthing generate` instead")
        return render_chat(self.tokenizer, messages)


def after_prefill(question: str, completion: str, prefill: str) -> str:
    """A whole completion without what the prompt ends in already. DataError where it does not begin so."""
    if not completion.startswith(prefill):
        raise DataError(
            f"the completion of {question[:60]!r} does not begin with prompt.prefill = {prefill!r}, as every completion of "
            f"this recipe does: {completion[:60]!r}. Make the samples with this prefill (of documents made from tasks: set "
            "styles.untagged = 0), or leave it out"
        )
    return completion.removeprefix(prefill)


def filled(template: str, fields: Mapping[str, str]) -> str:
    """The template with its fields, {name}; what a field holds is never taken for a field."""
    return FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def render_chat(tokenizer: Tokenizer, messages: list[dict[str, str]], is_open: bool = True) -> str:
    """jinja2 in its sandbox: a template from a downloaded folder must not run code. `is_open`: the assistant's turn comes."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(tokenizer.chat_template or "").render(
            messages=messages,
            add_generation_prompt=is_open,
            bos_token="" if tokenizer.bos_id is None else tokenizer.token(tokenizer.bos_id),
            eos_token=tokenizer.token(tokenizer.eos_id),
        )
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise ModelError(f"the chat template refuses these messages: {error}") from error


def _raise_exception(message: str) -> Any:
    raise jinja2.TemplateError(message)
