"""What is learnt from: sources of arrays, and what is done to them."""
