"""Markov chains and tempered particles."""
