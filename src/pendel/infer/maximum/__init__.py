"""Maximum a posteriori and the Laplace approximation."""
