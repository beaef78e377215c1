"""`coe fit` where models are asked: gates, contrasts, mergers, scorers, personas, plans."""
