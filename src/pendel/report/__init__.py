"""What a run says: R factors, tables."""
