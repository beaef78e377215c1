"""The draft store: every reply that was paid for, and every run, in one file that survives a crash."""

from composer.store.drafts import DraftStore, default_path
from composer.store.history import SETTLED, Charge, Ending, Origin, RunRecord
from composer.store.rows import clean
from composer.store.runs import Question, RunHandle, Status, StoredResult

__all__ = [
    "SETTLED",
    "Charge",
    "DraftStore",
    "Ending",
    "Origin",
    "Question",
    "RunHandle",
    "RunRecord",
    "Status",
    "StoredResult",
    "clean",
    "default_path",
]
