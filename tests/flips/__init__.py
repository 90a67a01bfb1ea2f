"""Bits that flip and files that end early, in all that a stream keeps: told, or mended, and never a wrong answer."""
