"""`Tables` as Delta Lake tables on a disk."""
