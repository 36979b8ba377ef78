"""Blocks of statistical models: what a model file imports."""
