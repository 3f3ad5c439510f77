"""Generation: prompts -> completions. One noun a file: sampler, cache, scheduler, engine."""
