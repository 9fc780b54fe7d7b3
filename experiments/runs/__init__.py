"""One run of one student, and finished runs."""
