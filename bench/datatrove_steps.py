"""CORPUS OUT WORDS: the steps of `bench data` in datatrove; runs in an environment of its own, without farthing.

WORDS is `spacy`, datatrove's default for English, or `split`: str.split in its place, the least that Python can do.
"""

import json
import sys
from pathlib import Path

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.text import ngrams, simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer


class Split(WordTokenizer):
    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return [text]

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def main(corpus: Path, out: Path, words: str) -> None:
    language = {"spacy": "eng", "split": Split()}[words]
    config = NGramsDecontConfig(n_grams=13)
    decontaminate = NGramsDecontFilter(str(out / "index"), config, language=language)
    write_index(decontaminate, config, corpus / "eval.jsonl", out / "index")
    minhash = MinhashConfig()
    clean = [
        JsonlReader(str(corpus), glob_pattern="corpus.jsonl"),
        PIIFormatter(remove_ips=False),
        decontaminate,
        JsonlWriter(str(out / "clean"), compression=None),
    ]
    again = JsonlReader(str(out / "clean"))
    signatures, buckets, remove = (str(out / name) for name in ("signatures", "buckets", "remove"))
    write = JsonlWriter(str(out / "done"), compression="zstd")
    for number, (pipeline, tasks) in enumerate(
        (
            (clean, 1),
            ([again, MinhashDedupSignature(signatures, minhash, language=language)], 1),
            ([MinhashDedupBuckets(signatures, buckets, config=minhash)], minhash.num_buckets),
            ([MinhashDedupCluster(buckets, remove, config=minhash)], 1),
            ([again, MinhashDedupFilter(remove), write], 1),
        )
    ):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(out / f"log{number}")).run()


def write_index(step: NGramsDecontFilter, config: NGramsDecontConfig, items: Path, folder: Path) -> None:
    """Its own indexer reads lighteval's tasks only; this writes the same file from the items."""
    hashes = set()
    for line in items.read_text().splitlines():
        words = step.tokenizer.word_tokenize(simplify_text(json.loads(line)["question"], config.norm_config))
        hashes.update(step.hash_func(" ".join(gram)) for gram in ngrams(words, config.n_grams))
    folder.mkdir(parents=True)
    np.array(list(hashes), dtype=config.hash_config.np_descr).tofile(folder / "eval.index.hashes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
