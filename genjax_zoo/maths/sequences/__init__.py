"""Strings of symbols: policies that write them, and what they are worth."""
