"""A file of questions as a run: foretold, recorded as it settles, stopped, resumed, replayed, compared, exported."""
