"""How fast, in how much memory, beside what others would use: see README.md."""
