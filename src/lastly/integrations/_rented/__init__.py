"""Things on other machines: what is owed for them, and how AWS is asked."""
