"""Every name that is logged, with its unit and meaning; a name that is not here cannot be logged."""

from typing import NamedTuple


class Metric(NamedTuple):
    unit: str
    meaning: str


METRICS: dict[str, Metric] = {
    "loss": Metric("nats", "loss of the optimizer step: cross-entropy, or policy loss with its KL term"),
    "reward": Metric("", "mean reward of the step's rollouts"),
    "accuracy": Metric("share", "rollouts whose answer the verifier accepts"),
    "format": Metric("share", "rollouts that keep <think>...</think><answer>...</answer>, right or wrong"),
    "completion_tokens": Metric("tokens", "mean length of the step's completions"),
    "truncated": Metric("share", "completions cut at max_completion_tokens"),
    "reflection": Metric("words", "self-verification words in a completion, mean over the step's rollouts"),
    "flat_groups": Metric("share", "groups without signal: every rollout got the same reward"),
    "resampled_groups": Metric("groups", "groups replaced by dynamic sampling"),
    "entropy": Metric("nats", "mean entropy of the policy's next-token distribution on completions"),
    "kl": Metric("nats", "mean KL to the reference per completion token"),
    "clipped": Metric("share", "completion tokens whose gradient the ratio clip removed"),
    "grad_norm": Metric("", "global gradient norm before clipping"),
    "learning_rate": Metric("", "learning rate of the step"),
    "logprob_gap": Metric("nats", "mean |rollout_logprobs - logprobs| under equal weights: engine against trainer"),
    "logprob_gap_max": Metric("nats", "largest such gap of the step"),
    "staleness": Metric("versions", "trainer's policy_version minus the rollouts'"),
    "padding": Metric("share", "positions of the trainer's batches that hold no token"),
    "level": Metric("", "newest unlocked level of the curriculum"),
    "rollout_tokens_per_s": Metric("tokens/s", "sampled tokens per second of the rollout phase"),
    "train_tokens_per_s": Metric("tokens/s", "trained tokens (prompts included) per second of the update phase"),
    "mfu": Metric("share", "model FLOPs of the update phase / (measured matmul peak x its seconds)"),
    "step_time": Metric("s", "wall time of the step, evaluation included, its checkpoint not"),
    "usd": Metric("USD", "cost of the run so far, this attempt included"),
    "budget": Metric("share", "used of the budget that is nearest to its end, where the recipe sets one"),
    "eval_accuracy": Metric("share", "quick held-out evaluation: mean accuracy"),
    "eval_format": Metric("share", "quick held-out evaluation: share of well-formed completions"),
    "eval_completion_tokens": Metric("tokens", "quick held-out evaluation: mean completion length"),
    "mtp_loss": Metric("nats", "cross-entropy of multi-token prediction, mean over its depths; not part of `loss`"),
    "balance_loss": Metric("", "sequence-wise balance loss before its coefficient, mean over layers; 1 is even"),
    "max_violation": Metric("", "MaxVio of the worst layer: busiest expert above its share of the step, as a part of it"),
    "max_violation_mean": Metric("", "MaxVio, mean over layers; each layer's own in expert_loads.jsonl"),
    "documents": Metric("documents", "documents trained on so far; of a corpus their pieces, which a window holds whole"),
    "held_out_bits_per_byte": Metric("bits/byte", "held-out loss of a corpus: bits the model needs for each byte of text"),
}
