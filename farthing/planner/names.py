"""Plain text -> the same text with the names of devices and models, number formats and dates taken out of the way.

A name becomes a mark without digits (@aa@ a device, &aa& a model), so that the 100 of H100 is never read as a number.
"""

import re
from dataclasses import dataclass, field
from functools import cache

from farthing.planner.hardware import catalogue, find_device

ANY_DEVICE = ""
"""The key of "GPUs", "chips", "accelerators": some device, nobody says which."""

_GENERIC = re.compile(
    r"(?<![a-z])(?:graphics processing units?|graphics cards?|ai chips?|video cards?|"
    r"[gtnx]pus?|accelerators?|chips?|cards?|devices?|"
    r"(?:ai )?processors?|graphics processors?)(?![a-z])(?:'s)?"
)
_UNLISTED = re.compile(
    r"(?i)(?<![a-z0-9])(?:(?:huawei|intel|aws|amazon|google|meta) )?(?:ascend|gaudi|trainium|inferentia|mtia|tpu|maia|wse)"
    r"[ -]?v?\d\w*(?:[ -](?:pods?|chips?|cards?|accelerators?))?(?![a-z0-9])"
)
"""Devices by name and number of which nothing is known here: their number must not be read as a count."""
_GLUED_HOURS = re.compile(r"(?<![a-z])([gtnx]pu)(?:h|hrs?|hours?)(?![a-z])")
_FAMILIES = (
    "deepseek gpt chatgpt llama codellama olmo qwen qwq mistral mixtral gemma phi falcon palm gemini claude "
    "grok kimi bloom opt pythia nemotron yi glm minimax gopher chinchilla bert t5 starcoder vicuna alpaca "
    "stablelm mpt dbrx jetmoe tinyllama smollm nanochat nanogpt tinyzero sky-t1 s1 openthinker deepscaler "
    "light-r1 open-r1 open-rs open-reasoner-zero simplerl simplerl-zoo apertus lamda megatron mt-nlg galactica "
    "bloomberggpt yalm internlm baichuan ernie hunyuan pangu aquila ling switch meena dolly gpt-j gpt-neox "
    "stable-diffusion satori tulu nova granite exaone solar cosmos whisper"
)
_FAMILY = "|".join(sorted(map(re.escape, _FAMILIES.split(" ")), key=len, reverse=True))
_SIZE = r"(?:8x)?\d+(?:\.\d+)?[bm](?![a-z0-9])"
_MODEL = re.compile(
    r"(?<![a-z0-9$-])(?:"
    r"(?:deepseek(?:'s)?[ -]?)?r1[ -]?zero|(?:deepseek(?:'s)?[ -]?)r1(?:[ -]?safe)?|r1(?:[ -]?safe)?(?![a-z0-9])|"
    r"deepseek(?:'s)?[ -]?(?:v\d(?:\.\d)?|llm|moe|coder|math)(?:[ -]base)?|"
    r"(?:v3|v2)(?:[ -]base)?(?![a-z0-9.])|o[134](?:-(?:mini|pro|preview))?(?![a-z0-9])|"
    rf"(?:{_FAMILY})(?:[ -]?[vk]?\d+(?:\.\d+)*(?:o|[ -]turbo)?(?![a-z0-9]))?"
    rf"(?:[ -](?:base|instruct|chat|math|coder|zero|moe|think|scout|maverick))*"
    rf"(?:[ -]{_SIZE})?(?![a-z0-9])(?:-a\d+(?:\.\d+)?b(?![a-z0-9])|-[a-z]+(?![a-z0-9]))?|"
    r"[a-z][a-z0-9.]*(?:-[a-z0-9.]+)*-\d+(?:\.\d+)?[bm](?![a-z0-9])"
    r")(?:'s)?"
)
_PRECISION = re.compile(
    r"(?<![a-z0-9])(?:(bf16|bfloat16)|(fp16|float16)|(?:mx)?(fp8)|(?:nv|mx)?(fp4)|"
    r"fp32|tf32|int8|float32)(?![a-z0-9])"
)
_MEMORY = re.compile(
    r"(?<![a-z0-9.])\(?\d{1,4}(?:\.\d+)? ?[gt]i?b(?:/s|ps)?\)?(?![a-z])(?: of (?:v?ram|hbm|memory|storage|data|text))?"
)
_WEB = re.compile(r"https?://\S{1,300}|\barxiv:?\s?\d{4}\.\d{4,5}(?:v\d+)?|\b\w+\.(?:com|org|net)/\S{0,200}")
_MONTH = r"(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    rf"\b(?:19|20)\d\d-\d\d-\d\d\b|\b(?:\d{{1,2}} )?{_MONTH} (?:\d{{1,2}}(?:st|nd|rd|th)?,? )?(?:19|20)\d\d\b|"
    r"\b(?:in|since|until|of|by|from|during|early|late|mid|as of|around) ?-?"
    r"(?:19[89]\d|20[0-3]\d)\b(?! ?[-x]? ?@)(?! ?(?:hours|nodes|days|,\d))|"
    r"\((?:19|20)\d\d\)|\b(?:19|20)\d\d-(?:20)?\d\d\b"
)


@dataclass
class Names:
    """What stood in the text; the keys are the marks' letters."""

    text: str
    devices: dict[str, str] = field(default_factory=dict)
    """Mark -> key of the catalogue, or ANY_DEVICE."""
    models: dict[str, str] = field(default_factory=dict)
    precision: str = ""
    year: int | None = None


def letters(number: int) -> str:
    """0 -> aa, 27 -> bb: a mark without digits."""
    return chr(97 + number // 676 % 26) * (number >= 676) + chr(97 + number // 26 % 26) + chr(97 + number % 26)


def lower(text: str) -> str:
    """Lower case, but a lone K, M, B or T after a digit stays: 30M is a million, 30m may be minutes."""
    return re.sub(r"(?<=\d)( ?)([KMBT])(?![A-Za-z0-9])|[A-Z]", lambda m: m[0] if m[2] else m[0].lower(), text)


def mark_names(plain_text: str) -> Names:
    """Takes the names out of plain text (see `wording`)."""
    names = Names(_WEB.sub(" ", lower(plain_text)))
    names.text = _device_pattern().sub(lambda m: _device(m, names), names.text)
    names.text = _UNLISTED.sub(lambda m: _mark(names.devices, ANY_DEVICE, "@"), names.text)
    names.text = _PRECISION.sub(lambda m: _precision(m, names), names.text)
    names.text = _mask_models(names)
    names.text = _GLUED_HOURS.sub(r"\1 hours", names.text)
    names.text = _GENERIC.sub(lambda m: _mark(names.devices, ANY_DEVICE, "@"), names.text)
    names.text = re.sub(r" {2,}", " ", _MEMORY.sub(" ", names.text)).replace("overnight", "in 6 to 16 hours")
    year = _DATE.search(names.text)
    names.year = int(re.findall(r"(?:19|20)\d\d", year[0])[-1]) if year else None
    names.text = _DATE.sub(" ", names.text)
    names.text = re.sub(r"@ ?[xX*] ?(?=\d)", "@ x ", re.sub(r"(?<=\d) ?[xX*] ?@", " x @", names.text))
    return names


def _mark(table: dict[str, str], value: str, sign: str) -> str:
    mark = letters(len(table))
    table[mark] = value
    return f"{sign}{mark}{sign}"


def _mask_models(names: Names) -> str:
    """Sizes in names have their capital until here."""
    lowered = names.text.lower()
    parts, last = [], 0
    for match in _MODEL.finditer(lowered):
        if match[0] in ("v3", "v2") and "deepseek" not in lowered:
            continue
        parts += [names.text[last : match.start()], _mark(names.models, match[0].removesuffix("'s"), "&")]
        last = match.end()
    return "".join([*parts, names.text[last:]])


@cache
def _device_pattern() -> re.Pattern[str]:
    aliases = {alias for device in catalogue().values() for alias in device.aliases if not alias.isdigit()}
    bare = "|".join(sorted(a for d in catalogue().values() for a in d.aliases if a.isdigit()))
    named = "|".join(re.escape(a).replace(r"\ ", "[ -]?") for a in sorted(aliases, key=len, reverse=True))
    return re.compile(
        r"(?i)(?:(?<![a-z0-9])|(?<=[0-9]x))(?:(?:nvidia|tesla|geforce|amd|instinct|intel|habana|google|cloud|huawei)[ -])*"
        rf"(?:(?P<name>{named})(?P<more>(?:[ -]\(?(?:sxm\d?|pcie|nvl|hbm\d?e?|\d{{2,3}} ?gi?b)\)?)*)(?:'?s)?(?![a-z0-9])|"
        rf"(?P<bare>{bare})(?:s(?![a-z0-9])|(?= ?(?:gpu|card))))"
    )


def _device(match: re.Match[str], names: Names) -> str:
    name = (match["bare"] or match["name"]).lower()
    more = (match["more"] or "").lower()
    variant = next((f"{name}-{word}" for word in ("40gb", "pcie") if word in more.replace(" ", "")), name)
    device = find_device(variant) or find_device(name)
    return _mark(names.devices, device.key if device else ANY_DEVICE, "@")


def _precision(match: re.Match[str], names: Names) -> str:
    formats = ("bf16", "fp16", "fp8", "fp4")
    found = next((name for name, got in zip(formats, match.groups(), strict=True) if got), "")
    names.precision = names.precision or found
    return " "


def size_in(model: str) -> str:
    """ "llama-2-70b" -> "70b"; nothing for 8x7b, whose size is not the product."""
    match = re.search(r"(?<![x0-9.])(\d+(?:\.\d+)?[bm])(?![a-z0-9])", model)
    return match[1] if match else ""
