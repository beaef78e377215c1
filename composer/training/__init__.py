"""Makes a LoRA adapter of labelled rows: read, parted, trained by an interpreter with torch, scored, and written whole."""
