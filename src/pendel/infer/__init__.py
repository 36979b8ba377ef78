"""Inference for any NumPyro model with frames: MAP and Laplace, SVI with a neural guide; knows no physics."""
