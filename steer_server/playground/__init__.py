"""The page at `/playground`: its sources in `src/`, and what `make playground` builds of them in `dist/`."""
