"""A folder and settings of r1-zero-smollm2 -> two steps in it whose completions never end early and all teach.

What the real recipe takes depends on its luck: completions that end soon and groups whose rewards are equal take less.
Here the end of text is a token that nothing samples, and hardly any two completions get the same reward.
"""

import json
import sys
from pathlib import Path

from bench.serve import reward_of
from farthing.config import load_recipe
from farthing.live import PlainLines
from farthing.models.gguf import import_gguf, smollm2_gguf
from farthing.pipeline import run_recipe
from farthing.rewards.extract import MAX_ANSWER_CHARS, MODES
from farthing.rewards.score import VERIFIERS

NEVER_SAMPLED = "<empty_output>"
"""Of SmolLM2's tokens for repositories of code."""


def main() -> None:
    folder, settings = Path(sys.argv[1]), sys.argv[2:]
    import_gguf(smollm2_gguf(), folder / "model")
    path = folder / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": NEVER_SAMPLED}))
    # the end of the text decides: a whole one of 256 tokens would be too long for an answer, and then all had the same reward
    MODES["text"] = lambda text: text[-MAX_ANSWER_CHARS:]
    VERIFIERS.update(dict.fromkeys(VERIFIERS, lambda answer, _problem: reward_of(answer)))
    recipe = load_recipe("r1-zero-smollm2", [f"model.source={folder / 'model'}", *settings])
    run_recipe(recipe, folder / "run", [PlainLines(lambda text: print(text, file=sys.stderr, flush=True))])


if __name__ == "__main__":
    main()
