"""What is learnt from outcomes that are known already: no model is asked."""
