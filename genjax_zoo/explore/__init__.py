"""What the latents of a model mean, and whether its samples are new."""
