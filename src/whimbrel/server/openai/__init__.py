"""OpenAI's API: chat, completions, responses, embeddings, models, files. Each module has a ``router``."""
