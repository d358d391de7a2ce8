"""Running: data, the loop, checkpoints, devices, the report. Knows the contract, no model."""
