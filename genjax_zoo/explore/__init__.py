"""What the latents of a model mean, and whether its samples are new: pictures with captions.

paths          linear and spherical ones, loops, sweeps, the algebra of labels
latents        of whatever structure as vectors, encoded or found by inversion
completions    of examples of which the first half is given
neighbours     the training examples nearest to samples
subject        a trained model, and the held-out examples that are shown of it
pictures       the pictures and films of all this
explorations   the table of what can be shown
"""
