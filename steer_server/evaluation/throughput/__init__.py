"""What steering costs the engine, measured and by formula."""
