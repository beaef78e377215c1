"""What was fitted, as it is kept beside a registry: one JSON file each, replaced as a whole."""
