"""Corpora with labelled questions, for everything that reads: StrategyQA's facts, invented things, and manual pages."""

from evals.tasks.passages.corpus import Corpus, write_documents, write_items

__all__ = ["Corpus", "write_documents", "write_items"]
