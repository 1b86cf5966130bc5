"""Tools that make the tables and figures of docs/ and RESULTS.md."""
