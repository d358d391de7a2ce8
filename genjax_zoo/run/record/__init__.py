"""What a run leaves behind: checkpoints, pictures, where it came from, a report."""
