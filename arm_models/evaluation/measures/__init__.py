"""What is computed from scores and answers: pure functions on numbers and words, one measure per file."""
