"""Strings of symbols: how they are written, policies that write them, and what they are worth."""
