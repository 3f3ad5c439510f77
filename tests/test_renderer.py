"""Prompts: bare, R1-Zero's template, the model's own chat template in a sandbox."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from farthing.errors import ModelError, RecipeError
from farthing.renderer import Renderer, render_chat
from farthing.tokenizer import Tokenizer

ASK = [{"role": "user", "content": "1+1?"}]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe terse<|im_end|>\n' }}{% endif %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LOOPS = (
    "{{ bos_token }}{% set seen = namespace(n=0) %}\n  {% for m in messages %}\n{% set seen.n = seen.n + 1 %}"
    "{{ m.content.split('?')[0] }}{{ eos_token }}{% if seen.n == 2 %}{% break %}{% endif %}\n  {% endfor %}{{ seen.n }}"
)


def with_template(template: str | None) -> Tokenizer:
    tokenizer = Tokenizer.characters("".join(map(chr, range(32, 127))) + "\n")
    tokenizer.chat_template = template
    tokenizer.bos_id = 1
    return tokenizer


@pytest.mark.parametrize("template", [CHATML, LOOPS])
@pytest.mark.parametrize("with_system", [True, False])
def test_chat_equals_transformers(template: str, with_system: bool, tmp_path: Path) -> None:
    tokenizer = with_template(template)
    tokenizer.save(tmp_path)
    system = [{"role": "system", "content": " Think first. "}] if with_system else []
    messages = [*system, *ASK, {"role": "assistant", "content": "2"}, {"role": "user", "content": "Sure?\n"}]
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert render_chat(tokenizer, messages) == auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_bare_and_r1_zero() -> None:
    tokenizer = with_template(None)
    assert Renderer(tokenizer).prompt("1+1=") == "1+1=\n"
    assert Renderer(tokenizer, instruction="Add. ", prefill="<think>").prompt("1+1=") == "Add. 1+1=\n<think>"
    asked = Renderer(tokenizer, "r1_zero", prefill=" <think>").prompt("{0} {question}?")
    assert asked.startswith("A conversation between User and Assistant.")
    assert asked.endswith("User: {0} {question}?. Assistant: <think>")
    assert tokenizer.decode(Renderer(tokenizer).prompt_tokens("1+1=")) == "1+1=\n"


def test_chat_puts_the_instruction_first_and_the_prefill_last() -> None:
    prompt = Renderer(with_template(CHATML), "chat", instruction="Add.", prefill="<think>\n").prompt("1+1?")
    assert prompt == ("<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n<think>\n")


def test_chat_without_a_template_says_what_to_do() -> None:
    with pytest.raises(RecipeError, match=r"chat_template\.jinja"):
        Renderer(with_template(None), "chat")
    with pytest.raises(ModelError, match="no chat template"):
        Renderer(with_template(None)).chat(ASK)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch TARGET') }}",
        "{{ raise_exception.__globals__['__builtins__']['open']('TARGET', 'w') }}",
        "{{ messages.append({'role': 'system', 'content': 'x'}) }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10**9) %}{% endfor %}",
    ],
)
def test_a_hostile_template_runs_no_code(template: str, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    with pytest.raises(ModelError, match="chat template refuses"):
        render_chat(with_template(template.replace("TARGET", str(target))), list(ASK))
    assert not target.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 / 0 }}",
        "{{ messages + 1 }}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_broken_template_is_a_model_error(template: str) -> None:
    with pytest.raises(ModelError, match="chat template refuses"):
        render_chat(with_template(template), list(ASK))


def test_examples_are_shown_before_the_question() -> None:
    examples = [("q1", "<think>a</think>1"), ("q2", "<think>b</think>2")]
    bare = Renderer(Tokenizer.characters("q"), instruction="do: ", prefill="<think>").with_examples(examples)
    assert bare.prompt("q") == "do: q1\n<think>a</think>1\nq2\n<think>b</think>2\nq\n<think>"
    zero = Renderer(Tokenizer.characters("q"), "r1_zero").with_examples(examples[:1])
    plain = Renderer(Tokenizer.characters("q"), "r1_zero")
    assert zero.prompt("q") == f"{plain.prompt('q1')}<think>a</think>1\n{plain.prompt('q')}"
    talks = Tokenizer.characters("q")
    talks.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}>"
    chat = Renderer(talks, "chat", "be kind").with_examples(examples[:1])
    assert chat.prompt("q") == "[system] be kind\n[user] q1\n[assistant] <think>a</think>1\n[user] q\n>"


@pytest.mark.parametrize("template", [CHATML, LOOPS])
def test_a_whole_exchange_equals_transformers(template: str, tmp_path: Path) -> None:
    """What a reward model reads: the reply is there, and no further turn is begun."""
    tokenizer = with_template(template)
    tokenizer.save(tmp_path)
    messages = [*ASK, {"role": "assistant", "content": "2 "}]
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert Renderer(tokenizer, "chat").whole("1+1?", "2 ") == auto.apply_chat_template(messages, tokenize=False)


def test_a_whole_exchange_without_a_chat_template_is_the_prompt_and_the_completion() -> None:
    tokenizer = with_template(None)
    for template in ("bare", "r1_zero"):
        renderer = Renderer(tokenizer, template, instruction="Add. ")  # type: ignore[arg-type]
        assert renderer.whole("1+1=", "<think>") == renderer.prompt("1+1=") + "<think>"
    assert Renderer(tokenizer, prefill="<think>").whole("1+1=", "<think>2") == "1+1=\n<think>2", "the prefill is there once"
