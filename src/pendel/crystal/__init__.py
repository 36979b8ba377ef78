"""What is refined: cell, symmetry, sites, and what they scatter."""
