"""What people read: HTML pages, Markdown, charts, JUnit."""
