"""Weights in and out: folders of Hugging Face, and the parameters that we make of them."""
