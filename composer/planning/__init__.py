"""Plans: a task split into typed steps, each for whoever is good at it (OpenAGI, Ge et al. 2023; METHODS I.8)."""
