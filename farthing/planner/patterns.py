# ruff: noqa: E501  (a pattern is one line, so that the order of the table can be read)
"""How people write quantities: one pattern a form, in the order in which they are tried.

Longer units come before shorter ones, what is no quantity of the run (an API price, a power, a count of samples) is
taken out under a kind that begins with `aside`. Marks: #aa# a number, @aa@ a device, &aa& a model (see `mentions`).
"""

import re

from farthing.planner.claim import Boundary, Work
from farthing.planner.numerals import CURRENCY
from farthing.planner.units import HOURS, MONEY_WORDS

_N, _D, _TIME = r"#(?P<n>[a-z]+)#", r"@(?P<d>[a-z]+)@", rf"(?P<t>{'|'.join(sorted(HOURS, key=len, reverse=True))})"
_N2, _D2 = r"#(?P<n2>[a-z]+)#", r"@[a-z]+@"
_ADJECTIVE = (
    r"(?:(?:nvidia|amd|huawei|google|intel|ai|cloud|rented|top|high-end|consumer|export-grade|chinese|total|more|of|the|its|such|"
    r"these|latest|older|hopper|ampere|blackwell|tesla|ascend|sxm\d?|powerful|server|datacenter|data-center|data center|class|training|dedicated|"
    r"individual|separate|physical|gaming|whole|single|compute|modest|specialized|specialised|advanced|graphics|interconnected|"
    r"then|just|only|cutting-edge|mid-range|cheap|commodity|new|used|second-hand|google cloud|kinds? of|worth of|equivalent|grade)[ -])*"
)
_MONEY = rf"(?P<money>{MONEY_WORDS})"
_CUR = rf"(?P<cur>{CURRENCY})"
NODE = r"(?:nodes?|servers?|machines?|box(?:es)?|hosts?|instances?)"
_H = r"(?:hours?|hrs?|h)\b"
_UTIL = r"(?:mfu|hfu|model flops? utili[sz]ation|flops? utili[sz]ation|utili[sz]ation|flops? efficiency|(?:hardware|compute|training) efficiency)"
PATTERNS: list[tuple[str, re.Pattern[str]]] = [
    (kind, re.compile(pattern))
    for kind, pattern in [
        (
            "aside_money",
            rf"{_CUR} ?{_N}(?: ?{_MONEY})? ?(?:/|per|a|an) ?(?:#[a-z]+# |million |one |1m |m |thousand |billion )?(?:(?:input|output) )?(?:tokens?|month|query|request|user|seat|employee|engineer|person|share|kwh|mwh|kilowatt[ -]?hour)\b",
        ),
        ("aside_money", rf"{_N} ?{_MONEY} ?(?:/|per|an?) ?(?:kwh|kilowatt[ -]?hour)\b"),
        (
            "aside_money",
            rf"\bof (?:an?|the|our|its|their) {_CUR} ?{_N}(?:[ -]?{_MONEY})?(?: \w+){{0,2}} (?:budget|grant|credits?|allowance)\b",
        ),
        (
            "price",
            rf"(?:{_CUR} ?)?{_N}(?:[ -]?{_MONEY})?[ -]?(?:/|per|an?|each|for each|for an?|for every|for one)[ -]?(?:single )?(?:{_ADJECTIVE}{_D}(?:[ -]?{_D2})*[ -]?)?(?:(?:8-gpu |#[a-z]+#[ -]?(?:x ?)?{_D2}[ -])?(?:{NODE}[ -]?|cluster[ -]?))?(?:/|-|per|for|an?|each| )*{_H}(?: ?(?:per|/|a|an|for each|for every) ?(?:{_ADJECTIVE}@(?P<d2>[a-z]+)@|{NODE}))?",
        ),
        ("purchase", rf"{_CUR} ?{_N}(?:[ -]?{_MONEY})? ?(?:/|per|a|an|each|for each) ?(?:{_ADJECTIVE}{_D})(?![ -]?{_TIME})"),
        ("flops", rf"{_N} ?(?P<p>peta|exa|p|e)?(?:flops?(?:/s|ps)?|flop/s|fs?|f/s)(?:-s)?[ -](?P<t>days?|hours?|years?)\b"),
        ("node_hours", rf"{_N}[ -]?(?:{_ADJECTIVE}{_D}(?:[ -]{_D2})*[ -])?{NODE}[ -]{_TIME}\b"),
        (
            "device_hours",
            rf"{_N}[ -]?(?:{_ADJECTIVE}{_D}(?:'s)?[ -]?(?:{_ADJECTIVE}{_D2}[ -]?)*)(?:of )?{_TIME}\b(?P<rate> ?(?:per|/|for each|for every|a) ?(?:{_N2} ?|one )?(?:trillion |billion )?tokens?)?",
        ),
        ("device_hours", rf"{_N} (?:total )?{_TIME} (?:of|on) {_ADJECTIVE}{_D}(?:[ -]{_D2})? ?(?:time|compute|usage|use)\b"),
        ("device_hours", rf"{_N} (?:device|accelerator|core|gpu|chip|card|total|compute)[ -]?{_TIME}\b"),
        (
            "tflops",
            rf"{_N} ?(?P<p>t|tera|p|peta)[ -]?flop(?:s|/s|s/s)?(?:/sec| per second)? ?(?:/|per|on each|each|a) ?{_ADJECTIVE}{_D}",
        ),
        ("tflops", rf"{_N} ?(?P<p>t|tera)[ -]?flop(?:s/s|/s|s)?\b"),
        ("aside_rate", rf"{_N} ?(?:peta|p)[ -]?flop(?:s/s|/s|s)?\b"),
        (
            "tokens_per_s_per_device",
            rf"{_N} ?(?:tokens?|toks?) ?(?:/|per|a) ?(?:s|sec|second)(?:/|ond)? ?(?:/|per|on each|for each) ?{_ADJECTIVE}{_D}",
        ),
        ("tokens_per_s", rf"{_N} ?(?:tokens?|toks?) ?(?:/|per|a|each|every) ?(?:s|sec|second)\b"),
        (
            "aside_rate",
            rf"{_N} ?(?:[a-z]+ )?(?:tokens?|samples?|steps?|problems?|questions?) ?(?:/|per|a|each|every) ?(?:hour|day|step|batch|week|minute|prompt|question|sample|gpu|@[a-z]+@)",
        ),
        (
            "flops",
            rf"{_N} ?(?P<p>exa|zetta|yotta|e|z)?[ -]?(?:flops?|floating[- ]?point operations?|operations|total flops?)\b(?! ?/)",
        ),
        ("kwh", rf"{_N} ?(?P<e>[kmgt]wh|(?:kilo|mega|giga|tera)watt[ -]?hours?|[mgt]j|(?:mega|giga|tera)joules?)\b"),
        ("aside_power", rf"{_N} ?(?:[kmg]?w|watts?|kilowatts?|megawatts?|gigawatts?)\b"),
        (
            "tco2",
            rf"{_N} ?(?P<m>kg|kilograms?|kt|kilotons?|kilotonnes?|t|tons?|tonnes?|metric tons?|lbs?|pounds?) ?(?:of )?(?:co2(?:[ -]?e(?:q(?:uivalents?)?)?)?|carbon(?: dioxide)?(?:[ -]equivalents?)?|carbon emissions|emissions)",
        ),
        (
            "mfu",
            rf"{_N} ?(?:%|percent|per cent) ?(?:of (?:the )?(?:theoretical |hardware |bf16 |dense )*peak|(?:\w+ ){{0,2}}?{_UTIL})",
        ),
        (
            "mfu",
            rf"{_UTIL}(?: \(?(?:mfu|hfu)\)?)?(?: of| was| is| at|:|=| rate of| reached| reaching)* ?(?:about |around |roughly |~)?{_N} ?(?:%|percent|per cent)",
        ),
        ("mfu", rf"(?:at|with|and|reaching|achiev\w+) (?:an? )?{_N} ?(?:%|percent|per cent) mfu"),
        ("mfu_ratio", rf"mfu(?: of| was| is| at|:|=)* ?{_N}(?! ?%)"),
        ("aside_percent", rf"{_N} ?(?:%|percent\b|per cent\b|times\b|x (?:less|cheaper|more|lower|higher|the|fewer)|-fold)"),
        (
            "each",
            rf"(?:at|for|x|\*|times)(?: an? (?:average|mean|price|rate|cost) of)? {_CUR} ?{_N}(?: ?{_MONEY})?(?= each\b| apiece\b| ?=)",
        ),
        ("at", rf"(?<=[_#] at ){_CUR} ?{_N}(?! ?(?:{_MONEY}|/|per\b))"),
        ("usd", rf"{_CUR} ?{_N}(?:[ -]?{_MONEY})?"),
        ("usd", rf"{_N}[ -]?(?:of )?{_MONEY}\b"),
        ("aside_batch", rf"\bbatch(?:es)?(?: size)?(?: of| was| is|:)? {_N}[ -]?tokens?\b"),
        ("aside_batch", rf"{_N}[ -]tokens? (?:batch|context|sequences?|windows?)\b"),
        (
            "tokens",
            rf"{_N}[ -](?:(?!for\b|on\b|per\b|and\b|in\b|to\b|epochs?\b|hours?\b|days?\b)[a-z-]+[ -]){{0,4}}?(?:tokens?|tok)\b",
        ),
        (
            "active_params",
            rf"{_N}[ -]?(?:param(?:eter)?s? )?(?:of (?:which|them) (?:are )?)?(?:active|activated)(?: param(?:eter)?s?| per token)*",
        ),
        (
            "active_params",
            rf"(?:activat\w+|active|with only)(?: only| just| params| parameters|:|=| of)* {_N}(?: (?:of )?(?:its )?(?:active )?param(?:eter)?s?| per token| active)",
        ),
        (
            "params",
            rf"{_N}[ -](?:(?!for\b|on\b|per\b|and\b|in\b|to\b|hours?\b|days?\b)[a-z]+[ -]){{0,3}}?(?:param(?:eter)?s?)\b",
        ),
        (
            "model_size",
            rf"{_N}(?:[ -](?!for\b|on\b|in\b|and\b|x\b)[a-z]+){{0,3}}?[ -](?:models?|llms?|networks?|transformers?|moe|base|variant|version|policy|checkpoint)\b",
        ),
        ("model_size", rf"&[a-z]+& \(?{_N}(?=[ ,).]|$)(?! ?(?:@|tokens))"),
        (
            "aside_count",
            rf"{_N} ?(?:-?(?:way|bit|shot|point|step|layers?|experts?|heads?|samples?|examples?|problems?|questions?|prompts?|traces?|steps|iterations|updates|rollouts|researchers|people|employees|engineers|authors|runs|experiments|stages|languages|benchmarks|context|minutes? read|pages|lines|papers|customers|downloads|stars))\b",
        ),
        ("epochs", rf"{_N} ?(?:epochs?|passes)\b"),
        (
            "nodes_of",
            rf"{_N}[ -](?:{_ADJECTIVE}|{_D2}[ -])?(?:{NODE}|dgx(?: systems?)?|hgx(?: systems?)?)(?: ?(?:,|\(|of|with|each with|each having|having|each holding|holding|containing|and|x|-|equipped with|that each have|each))* ?{_N2}[ x*-]*{_ADJECTIVE}@(?P<dn>[a-z]+)@(?: ?@[a-z]+@)*(?: each| per node| in each)?",
        ),
        (
            "nodes_of",
            rf"{_N} ?(?:x )?{_N2}[ -]?(?:x ?)?@(?P<dn>[a-z]+)@[ -](?:@[a-z]+@[ -])?(?:nodes|servers|machines|boxes|hosts|instances)\b",
        ),
        ("per_node", rf"(?<!# ){_N} ?x ?{_D}[ -](?:{_D2}[ -])?(?:nodes|servers|machines|boxes|hosts|instances)\b"),
        ("per_node", rf"{_N} {_ADJECTIVE}{_D}(?:s)? ?(?:per|/|a|in each|each|on each|in every|on every) ?{NODE}\b"),
        ("per_node", rf"{_N} (?:per|a|in each|each|on each|to a) ?{NODE}\b"),
        ("nodes", rf"{_N}[ -](?:{_ADJECTIVE}(?:{_D}[ -]?)*)(?:dgx|hgx)?[ -]?(?:{NODE}|systems)\b"),
        ("nodes", rf"{_N}[ -](?:nvidia )?(?:dgx|hgx)(?:[ -]?{_D})?(?: (?:systems?|pods?))?"),
        ("nodes", rf"\b(?:a|one|single) (?:single )?(?:8-gpu )?(?:{_D}[ -])(?:@[a-z]+@[ -])?{NODE}\b"),
        ("devices", rf"{_N} of (?:its|the|their|our|a total of) #[a-z]+#[ -]?{_ADJECTIVE}{_D}"),
        ("devices", rf"{_N}(?= (?:of (?:them|these) )?(?:were|was) (?:actually )?used\b)"),
        ("devices", rf"(?<=\bused ){_N}(?= (?:of (?:them|these) )?(?:for|over)\b)"),
        ("devices", rf"{_N} ?(?:x|\*|times) ?{_N2} ?(?:x |-)?{_ADJECTIVE}{_D}(?:[ -]?{_D2})*"),
        ("devices", rf"{_N}(?: ?x ?|[ -]?){_ADJECTIVE}{_D}(?:[ -]?{_ADJECTIVE}{_D2})*"),
        ("devices", rf"{_D}s? ?(?:x|\*|:|=|\() ?{_N}(?! ?{_TIME}\b)"),
        ("devices", rf"\b(?:a|an|one|single)[ -]{_ADJECTIVE}{_D}(?:[ -]?{_D2})*(?![ -]?{_TIME}\b)"),
        ("daily", rf"{_N}[ -]?{_H} (?:a|per|each|every) day,? (?:for|over|during) {_N2} ?{_TIME}\b"),
        (
            "hours",
            rf"{_N}[ -]?(?:(?:full|straight|wall[- ]?clock|calendar|consecutive|entire|whole|continuous|short|solid|gruelling|long|actual|working|elapsed)[ -])*{_TIME}\b(?! ?(?:of experience|old|ago))(?P<rate> ?(?:per|/|for each|for every) ?(?:{_N2} ?|one )?(?:trillion |billion )?tokens?)?",
        ),
        (
            "hours",
            rf"(?<!per )(?<!times )\b(?P<half>half )?(?:an?|one|a single|the course of a|a mere|another) (?:(?:full|single|whole|long) )?{_TIME}\b(?! ago)(?!-)",
        ),
        ("minutes", rf"{_N}(?= on\b| with\b|,|\.| and\b| for\b|$)"),
        (
            "devices",
            rf"(?:cluster|fleet|pool|farm|total) of (?:about |some |over |roughly |up to )?{_N}(?! ?(?:{_TIME}|tokens|dollars)\b)",
        ),
        ("same", rf"{_N}(?= (?:for|on) (?!#)| in total\b| (?:all told|altogether)\b)"),
        ("bare_size", rf"{_N}"),
    ]
]

ASIDE = re.compile(
    r"\b(?:compared (?:with|to)|in comparison (?:with|to)|versus|vs\.?|rather than|instead of|unlike|in contrast (?:to|with)|exclud\w+|"
    r"not (?:including|counting)|does not include|without(?: counting)?|on top of|in addition to|apart from|aside from|as opposed to|"
    r"(?:cheaper|less expensive|more expensive|lower|more efficient|fewer|less|more|higher|faster) than (?=[&a-z])|times (?:what|the (?:cost|price) of|as much as) |(?<=, )not (?=[$#])|(?:up|down) from (?=[$#])|a (?:fraction|tenth) of|(?:while|whereas|where|but) (?=&)|"
    r"(?:the )?(?:headline|rumou?red|previously reported|earlier)\b|against (?:the )?(?=[&$]))"
)

WORK: list[tuple[Work, str]] = [
    ("serving", r"\bserv(?:e|ed|ing) (?:the |it|users|requests|traffic|one day)|\binference (?:cost|service|bill)|\bper day to run\b|\bserving\b"),
    ("reproduction", r"\bre-?produc|\breplicat|\brecreat|\bre-?implement|\bcop(?:y|ied) of\b|\b(?:could|would|can|might) (?:be|have been) (?:pre-?)?trained"),
    ("training", r"\bpre-?training|\bpre-?train(?:ed)? (?:a|an|our|the|on|with|for|it|from|in)\b|from scratch"),
    ("post-training", r"\bfine-?tun|\bpost-?train|\bsft\b|\blora\b|\bdistill|\balign|\bgrpo\b|\bppo\b|\brl\b|\bdpo\b|\breinforcement|\bcontinu\w+ (?:pre-?)?train"),
    ("buying", r"\bbought|\bbuying|\bbuy\b|\bpurchas|\bcapex|\bcapital expend|\bspent on (?:hardware|gpus|servers|@)|\bowns?\b|\bhardware (?:spend|cost|bill)|\bserver capex|\bworth of (?:hardware|gpus|@)|\binvest"),
    ("training", r"\btrain|\bpre-?train|\bfrom scratch|\bbuil[dt]\b|\btook\b|\brun\b|\bcost"),
]  # fmt: skip
BOUNDARIES: list[tuple[Boundary, str]] = [
    ("full development", r"full development|(?:complete|entire|total|whole|overall|all) (?:development|r&d|research|project|programme|program)|development (?:cost|budget|of)|\bdevelop(?:ed|ing)?\b|r&d|all[- ]in\b|everything|including (?:salaries|staff|research)"),
    ("hardware", r"hardware|capex|capital expend|bought|buying|purchas|owns?\b|infrastructure|invest"),
    ("all attempts", r"including (?:failed|all) (?:runs|attempts|experiments)|all (?:attempts|experiments|runs)|failed runs included|with (?:failures|restarts)"),
    ("final runs", r"final (?:training )?runs?|official training|successful runs?|(?:only|just) the (?:final|training) |rental (?:cost|price)|compute (?:cost )?(?:only|alone)|gpu (?:rental|time)|@ rental|excluding (?:prior|earlier|research|ablation|failed)|does not include|for the rl |rl (?:stages?|training|phase|runs?) (?:alone|only)"),
]  # fmt: skip
