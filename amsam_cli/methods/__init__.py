"""The two papers, one box of their figures per file."""
