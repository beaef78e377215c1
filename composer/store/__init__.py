"""The draft store: every reply that was paid for, and every run, in one file that survives a crash."""

from composer.store.drafts import DraftStore, default_path
from composer.store.rows import clean
from composer.store.runs import Question, RunHandle, Status, StoredResult

__all__ = ["DraftStore", "Question", "RunHandle", "Status", "StoredResult", "clean", "default_path"]
