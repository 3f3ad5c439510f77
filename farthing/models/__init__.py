"""One decoder definition for every family, and its way in and out of Hugging Face folders and GGUF files."""
