"""Texts that a trained model writes: after prompts, or in a chat."""
